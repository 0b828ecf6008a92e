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

// Within returns a context in which no policy goes on for longer than budget: for
// what can be done without.
func Within(ctx context.Context, budget time.Duration) context.Context {
	return context.WithValue(ctx, budgetKey{}, budget)
}

// Noticing returns a context in which notice is called before each further attempt
// that lets somebody wait for more than a few seconds, with the reason.
func Noticing(ctx context.Context, notice func(error)) context.Context {
	return context.WithValue(ctx, noticeKey{}, notice)
}

type (
	budgetKey struct{}
	noticeKey struct{}
)

// noticeAfter is how long somebody may wait without being told why.
const noticeAfter = 3 * time.Second

// Do calls attempt until it succeeds, fails for good, or the policy's time is
// over, and returns its last error. If ctx is done before that, the error wraps
// ctx's.
func (p Policy) Do(ctx context.Context, attempt func() error) error {
	begin := time.Now()
	budget := p.Budget
	if less, ok := ctx.Value(budgetKey{}).(time.Duration); ok {
		budget = min(budget, less)
	}
	notice, _ := ctx.Value(noticeKey{}).(func(error))
	for n := 1; ; n++ {
		err := attempt()
		if err == nil || !Transient(err) {
			return err
		}
		wait := p.wait(n, err)
		if time.Since(begin)+wait > budget {
			return fmt.Errorf("%w (given up after %d attempts in %s)", err, n, time.Since(begin).Round(time.Second))
		}
		if notice != nil && time.Since(begin)+wait > noticeAfter {
			notice(err)
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
