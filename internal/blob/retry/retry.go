// Package retry is the one place that decides whether a failed request is
// worth another attempt, when, and for how long: [Transient] is the predicate,
// [Policy] holds the waits and their bound, and [RetryAfter] is the server's
// own word on it.
//
// It retries whole operations, not HTTP requests: only the operation's author
// knows what an attempt whose answer was lost may have done.
package retry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// A Policy says how long to wait between attempts, and for how long to go on.
type Policy struct {
	First   time.Duration // the longest wait before the second attempt; it doubles with each further one
	Longest time.Duration // the longest wait of all, unless the server asks for more
	Budget  time.Duration // no attempt begins later than this after the first
}

// Default outlasts a server's restart or a minute of throttling, and still
// tells a waiting person before they give up.
var Default = Policy{First: 250 * time.Millisecond, Longest: 20 * time.Second, Budget: 3 * time.Minute}

// Do calls attempt until it succeeds, fails for good, or the policy's time is
// over, and returns its last error. If ctx is done before that, the error wraps
// ctx's.
func (p Policy) Do(ctx context.Context, attempt func() error) error {
	begin := time.Now()
	for n := 1; ; n++ {
		err := attempt()
		if err == nil || !Transient(err) {
			return err
		}
		wait := p.wait(n, err)
		if time.Since(begin)+wait > p.Budget {
			return fmt.Errorf("%w (given up after %d attempts in %s)", err, n, time.Since(begin).Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, after %w", ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// wait is the time to let pass after attempt n failed: at random up to a bound
// that doubles, so that those who failed together don't come back together;
// but no less than the server asked for.
func (p Policy) wait(n int, err error) time.Duration {
	bound := p.First
	for range n - 1 {
		bound = min(2*bound, p.Longest)
	}
	return max(RetryAfter(err), rand.N(bound)+1)
}
