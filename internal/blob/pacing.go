package blob

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Servers differ in how much they take at once, and say so only when it was
// too much. A pacer bounds the requests in flight to one of them by what it has
// taken so far, in the manner of TCP: the bound falls by a third when the server
// throttles or doesn't answer in time, and grows by one each time that a whole
// round of requests has gone well. What was refused is retried by its operation,
// as ever; the pacer only sees to it that the others don't go on as before.
//
// A request counts until its answer begins: what is limited is how much the
// server has to think about, not how much it has to send.
type pacer struct {
	next http.RoundTripper

	mu       sync.Mutex
	limit    float64 // requests in flight, at least 1
	inFlight int
	fell     time.Time       // when the limit fell last
	queue    []chan struct{} // those who wait, in order; closed to let one go
}

// The bounds of a pacer's limit. It begins at what we would send to a server
// that takes everything.
const (
	firstPace   = 64
	fastestPace = 256
)

func newPacer(next http.RoundTripper) *pacer { return &pacer{next: next, limit: firstPace} }

// RoundTrip implements [http.RoundTripper].
func (p *pacer) RoundTrip(request *http.Request) (*http.Response, error) {
	if err := p.enter(request.Context()); err != nil {
		if request.Body != nil {
			request.Body.Close()
		}
		return nil, err
	}
	begun := time.Now()
	answer, err := p.next.RoundTrip(request)
	p.leave(begun, answer, err)
	return answer, err
}

// enter waits for a request's turn.
func (p *pacer) enter(ctx context.Context) error {
	p.mu.Lock()
	if p.inFlight < int(p.limit) {
		p.inFlight++
		p.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	p.queue = append(p.queue, turn)
	p.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.queue, turn); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
	} else {
		p.inFlight-- // it was our turn all the same
		p.admit()
	}
	return ctx.Err()
}

// leave notes how a request that began at that time went.
func (p *pacer) leave(begun time.Time, answer *http.Response, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if throttled(answer, err) {
		// Those that were on their way when the limit fell say nothing new.
		if begun.After(p.fell) {
			p.limit = max(1, min(p.limit, float64(p.inFlight))*2/3)
			p.fell = time.Now()
		}
	} else if err == nil {
		p.limit = min(fastestPace, p.limit+1/p.limit)
	}
	p.inFlight--
	p.admit()
}

// admit lets those go whose turn it is.
func (p *pacer) admit() {
	for len(p.queue) > 0 && p.inFlight < int(p.limit) {
		p.inFlight++
		close(p.queue[0])
		p.queue = p.queue[1:]
	}
}

// throttled says whether an answer, or the lack of one, means "not so fast".
func throttled(answer *http.Response, err error) bool {
	if err != nil {
		var timeout net.Error
		return errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, context.DeadlineExceeded)
	}
	return answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusServiceUnavailable
}
