package blob

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A server that takes a few requests at once, and refuses the rest, is soon
// asked no faster than it answers.
func TestPaceFollowsTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 8
		var inFlight, refused, served atomic.Int64
		server := roundTrip(func(r *http.Request) (*http.Response, error) {
			answer := httptest.NewRecorder()
			if inFlight.Add(1) > takes {
				refused.Add(1)
				answer.Code = http.StatusServiceUnavailable
			} else {
				time.Sleep(20 * time.Millisecond)
				served.Add(1)
			}
			inFlight.Add(-1)
			return answer.Result(), nil
		})
		pacer := newPacer(server)
		var group sync.WaitGroup
		for range 128 { // each goes on until it was served 50 times
			group.Go(func() {
				for n := 0; n < 50; {
					answer, err := pacer.RoundTrip(httptest.NewRequest("GET", "/", nil))
					if err != nil {
						t.Error(err)
						return
					}
					if answer.StatusCode == http.StatusOK {
						n++
					} else {
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		begin := time.Now()
		group.Wait()
		// Without a pacer, a hundred would come back each millisecond.
		if refused.Load() > served.Load()/2 {
			t.Errorf("%d requests were refused, for %d that were served", refused.Load(), served.Load())
		}
		// And what the server takes is made use of.
		ideal := time.Duration(served.Load()) * 20 * time.Millisecond / takes
		if took := time.Since(begin); took > 2*ideal {
			t.Errorf("took %v, where %v would do", took, ideal)
		}
		if pacer.inFlight != 0 || len(pacer.queue) != 0 {
			t.Errorf("%d in flight and %d waiting at the end", pacer.inFlight, len(pacer.queue))
		}
	})
}

// A server that takes everything is asked for more than at first.
func TestPaceGrows(t *testing.T) {
	pacer := newPacer(roundTrip(func(*http.Request) (*http.Response, error) {
		return httptest.NewRecorder().Result(), nil
	}))
	for range 100000 {
		if _, err := pacer.RoundTrip(httptest.NewRequest("GET", "/", nil)); err != nil {
			t.Fatal(err)
		}
	}
	if pacer.limit != fastestPace {
		t.Errorf("the limit is %v, want %v", pacer.limit, fastestPace)
	}
}

// Who gives up while waiting leaves no trace.
func TestPaceGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		pacer := newPacer(roundTrip(func(*http.Request) (*http.Response, error) {
			<-release
			return httptest.NewRecorder().Result(), nil
		}))
		pacer.limit = 1
		var group sync.WaitGroup
		group.Go(func() { pacer.RoundTrip(httptest.NewRequest("GET", "/", nil)) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := pacer.RoundTrip(httptest.NewRequest("GET", "/", nil).WithContext(ctx)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		close(release)
		group.Wait()
		if _, err := pacer.RoundTrip(httptest.NewRequest("GET", "/", nil)); err != nil || pacer.inFlight != 0 {
			t.Errorf("afterwards: %v, %d in flight", err, pacer.inFlight)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
