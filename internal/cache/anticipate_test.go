package cache

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

// What is anticipated is read once, told once, and not remembered.
func TestAnticipate(t *testing.T) {
	s, root := sample(t)
	rec := &recorder{Store: blob.NewMemory()}
	push(t, New(rec, Config{}), s, root)
	rec.requests("")
	c := New(rec, Config{})
	c.Anticipate(t.Context(), root)
	c.Anticipate(t.Context(), root)
	if _, err := c.Closure(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"GET " + manifestKey(root)}, rec.requests("")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	write(t, rec, manifestKey(root), "no manifest any more")
	rec.requests("")
	closure, err := c.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if got := rec.requests("GET"); len(got) != 1+len(closure.Paths) {
		t.Errorf("asked again, it was told what was read before: %v", got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.Anticipate(t.Context(), root)
	if _, err := c.Closure(ctx, root); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A push that was announced has one lease like any other, from before it looks at
// what the cache has; and none is left behind, pushed or not.
func TestAnnounce(t *testing.T) {
	for _, test := range []struct {
		name                    string
		there, previous, pushed bool
		leases                  int
	}{
		{"new", false, false, true, 1},
		{"there, but no pointer leads to it", true, false, true, 1},
		{"there, and a pointer leads to it", true, true, true, 0},
		{"never pushed", false, false, false, 1},
		{"there, and never pushed", true, false, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, root := sample(t)
			rec := &recorder{Store: blob.NewMemory()}
			if test.there {
				if err := push(t, New(rec, Config{}), s, root).Release(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			rec.requests("")
			c := New(rec, Config{})
			c.Anticipate(t.Context(), root)
			c.Announce(t.Context(), root)
			if test.pushed {
				req := PushRequest{Root: root, Infos: s.closure(root), Source: s}
				if test.previous {
					closure, err := c.Closure(t.Context(), root)
					if err != nil {
						t.Fatal(err)
					}
					req.Previous = []*Closure{closure}
				}
				pushed, err := c.Push(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				if got := len(keys(t, rec, "leases/")); got != test.leases {
					t.Errorf("after the push there are %d leases, want %d", got, test.leases)
				}
				if err := pushed.Release(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Withdraw(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := keys(t, rec, "leases/"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			requests := rec.requests("")
			isLease := func(r string) bool { return strings.HasPrefix(r, "HAS leases/") }
			isLook := func(r string) bool { return strings.HasPrefix(r, "GET ") && strings.HasSuffix(r, ".narinfo") }
			lease, look := slices.IndexFunc(requests, isLease), slices.IndexFunc(requests, isLook)
			if got := len(slices.DeleteFunc(slices.Clone(requests), func(r string) bool { return !isLease(r) })); got != test.leases {
				t.Errorf("%d leases were taken, want %d", got, test.leases)
			}
			if look >= 0 && look < lease {
				t.Errorf("the cache was looked at before there was a lease: %v", requests)
			}
		})
	}
}
