package cache

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Whatever an optional cache answers, a push that could leave paths to it goes on
// without it, and that is said once. A cache that isn't optional fails the same push.
func TestOptionalCache(t *testing.T) {
	status := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc // nil: nobody listens
		warns  string           // "": not a fault
		fails  bool             // if it isn't optional
	}{
		{"nobody listens", nil, "going on without ", true},
		{"out of order", status(http.StatusInternalServerError), "going on without ", true},
		{"wants credentials", status(http.StatusUnauthorized), "going on without ", true},
		{"denies everything", status(http.StatusForbidden), "which denies all that it was asked for", false},
		{"has nothing", status(http.StatusNotFound), "", false},
		{"isn't a cache", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("<!doctype html>")) }, "going on without what can't be read of ", true},
		{"has something else", func(w http.ResponseWriter, r *http.Request) {
			ni := NarInfo{PathInfo: nix.PathInfo{Path: new(store).add(t, "elsewhere", "contents")}, URL: "nar/x", Compression: "none"}
			w.Write([]byte(ni.Text()))
		}, "going on without what can't be read of ", true},
		{"answers without end", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write([]byte(strings.Repeat("x", 1<<16)))
			}
		}, "going on without what can't be read of ", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			patience := blob.Patience{Retry: retry.Policy{First: time.Millisecond, Longest: time.Millisecond, Budget: 10 * time.Millisecond}, Stall: time.Minute}
			server := httptest.NewServer(test.answer)
			defer server.Close()
			if test.answer == nil {
				server.Close()
			}
			u, err := url.Parse(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			there, err := blob.Open(t.Context(), u, blob.Config{Patience: patience})
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var warned []string
			upstream := func(optional bool) *Cache {
				return New(there, Config{RequireSigs: true, Optional: optional, Warn: func(err error) {
					mu.Lock()
					defer mu.Unlock()
					warned = append(warned, err.Error())
				}})
			}
			s, root := sample(t)
			request := func(u *Cache) PushRequest {
				return PushRequest{Root: root, Infos: s.closure(root), Source: s, Upstreams: []*Cache{u}}
			}
			pushed, err := New(blob.NewMemory(), Config{}).Push(t.Context(), request(upstream(true)))
			if err != nil || pushed.SentPaths != len(s.closure(root)) {
				t.Errorf("pushed %+v, %v", pushed, err)
			}
			if (len(warned) != 0) != (test.warns != "") || len(warned) > 1 || len(warned) == 1 && !strings.Contains(warned[0], test.warns) {
				t.Errorf("it warned of %q, want one about %q", warned, test.warns)
			}
			_, err = New(blob.NewMemory(), Config{}).Push(t.Context(), request(upstream(false)))
			if (err != nil) != test.fails {
				t.Errorf("if it isn't optional: %v", err)
			}
		})
	}
}

// A substituter that has announced a closure and can't give it is done without from
// then on, whether the closure was found by its narinfos or by a manifest of ours.
func TestSubstituterThatLostItsFiles(t *testing.T) {
	s, root := sample(t)
	there := named{blob.NewMemory(), "https://upstream.example.org"}
	push(t, New(there, Config{}), s, root)
	warned := 0
	upstream := New(there, Config{Optional: true, Warn: func(error) { warned++ }})
	c := New(blob.NewMemory(), Config{Substituters: []*Cache{upstream}})
	request := PushRequest{Root: root, Infos: s.closure(root), Source: s, Upstreams: []*Cache{upstream}}
	if _, err := c.Push(t.Context(), request); err != nil { // which leaves a manifest
		t.Fatal(err)
	}
	find := func(c *Cache) *Closure {
		t.Helper()
		closures, err := c.Closures(t.Context(), []nix.StorePath{root})
		if err != nil {
			t.Fatal(err)
		}
		return closures[root]
	}
	other := New(blob.NewMemory(), Config{Substituters: []*Cache{upstream}})
	for _, cache := range []*Cache{c, other} {
		if find(cache) == nil {
			t.Fatal("the closure isn't found")
		}
	}
	for info := range there.List(t.Context(), "nar/") {
		if err := there.Delete(t.Context(), info.Key); err != nil {
			t.Fatal(err)
		}
	}
	found := find(other)
	_, err := New(blob.NewMemory(), Config{}).Push(t.Context(), PushRequest{Root: root, Infos: found.Infos(), Source: other.Source(found)})
	// tries is how often Repeat does what ends with an error, and then with others.
	tries := func(ends ...error) (n int) {
		Repeat(t.Context(), func() (int, error) {
			n++
			if n > 100 {
				return 0, nil
			}
			return 0, ends[min(n, len(ends))-1]
		})
		return n
	}
	if n := tries(err, nil); n != 2 || warned != 1 {
		t.Errorf("done %d times, warned %d times: %v", n, warned, err)
	}
	if n := tries(errors.New("another")); n != 1 {
		t.Errorf("done %d times for another reason", n)
	}
	if n := tries(err); n > 100 {
		t.Error("it goes on for ever")
	}
	for _, cache := range []*Cache{c, other} {
		if find(cache) != nil {
			t.Error("the closure is still found")
		}
	}
}
