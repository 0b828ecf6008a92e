package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

const kills = 20

// Killed at any instant, out leaves a cache that keeps its promises; run again,
// it finishes, with no generation more than without the kill (promises 1 to 4).
func TestKilledOut(t *testing.T) { inEachPlace(t, testKilledOut) }

func testKilledOut(t *testing.T, cache place) {
	r := newRig(t, nixtest.Current(t), cache)
	w := newWitness(r)
	path := r.nextSystem(t, true)
	start := time.Now()
	must[put](t)(answer[put](r.out(path)))
	whole := time.Since(start)

	for n := 2; n < 2+kills; n++ {
		path = r.nextSystem(t, true)
		cmd := r.out(path)
		moment, wait := moments(r, whole, n)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		go func() {
			wait(over)
			cmd.Process.Kill()
		}()
		err := cmd.Wait()
		close(over)
		t.Logf("killed %s: %v", moment, err)
		if err := w.look(); err != nil {
			t.Fatalf("killed %s:\n%v", moment, err)
		}

		got := must[put](t)(answer[put](r.out(path)))
		if diff := cmp.Diff(version{strconv.Itoa(n), path.String()}, got.Version); diff != "" {
			t.Fatalf("killed %s and run again (-want +got):\n%s", moment, diff)
		}
		if err := w.look(); err != nil {
			t.Fatalf("killed %s and run again:\n%v", moment, err)
		}
		if got := plain(t, r); got != path.String() {
			t.Fatalf("killed %s and run again: the plain pointer stays at %s, want %s", moment, got, path)
		}
		if _, err := r.cache.read("changes/web-1/" + got.Version.Generation + ".json"); err != nil {
			t.Fatalf("killed %s and run again: what it changes isn't told: %v", moment, err)
		}
	}

	want := facts(r.store.Closure(t, path))
	for _, cache := range r.cache.substituters(r.nix) {
		if diff := cmp.Diff(want, facts(realise(t, cache, r.key, r.nix, plain(t, r)))); diff != "" {
			t.Errorf("what a host realises from %s (-published +realised):\n%s", cache, diff)
		}
		for _, g := range must[[]generation](t)(w.generations()) {
			r.store.Run(t, "nix", "path-info", "--recursive", "--store", cache, g.Path)
		}
	}
}

// moments chooses the nth moment to kill out at: any instant of its usual time,
// or, every other time, when something new shows in the cache. It returns what
// to call that moment, and how to wait for it or until it is over.
func moments(r *rig, whole time.Duration, n int) (name string, wait func(over <-chan struct{})) {
	if n%2 == 0 {
		instant := rand.N(whole)
		return fmt.Sprintf("after %v", instant), func(over <-chan struct{}) {
			select {
			case <-time.After(instant):
			case <-over:
			}
		}
	}
	patterns := []string{"nar/*", "*.narinfo", "closures/*", "pointers/web-1.json", "pointers/web-1", "changes/web-1/*"}
	pattern := patterns[n/2%len(patterns)]
	before := look(r.cache, pattern)
	return "when " + pattern + " changed", func(over <-chan struct{}) {
		for !isClosed(over) && look(r.cache, pattern) == before {
			runtime.Gosched()
		}
	}
}

// look is a glance at some objects: it changes when they do.
func look(cache place, pattern string) string {
	objects, err := matching(cache, pattern)
	if err != nil {
		panic(err)
	}
	return fmt.Sprint(objects)
}

// SIGTERM, as Concourse sends it where somebody aborts a build: the put ends, with a
// valid cache and without a lease, and putting again finishes it.
func TestInterruptedPut(t *testing.T) {
	t.Parallel()
	place, requests := counted(t)
	r := newRig(t, nixtest.Current(t), place)
	w := newWitness(r)
	for _, at := range []string{"PUT nar/", "PUT [^/]*.narinfo", "PUT closures/", "PUT pointers/web-1.json"} {
		path := r.nextSystem(t, false)
		cmd := r.out(path)
		var log strings.Builder
		cmd.Stderr = &log
		requests.mu.Lock()
		var once sync.Once // a second signal ends a program at once
		requests.before = func(request string) {
			if cmd.Process != nil && regexp.MustCompile("^"+at).MatchString(request) {
				once.Do(func() { cmd.Process.Signal(syscall.SIGTERM) })
			}
		}
		requests.mu.Unlock()
		err := cmd.Run()
		requests.mu.Lock()
		requests.before = nil
		requests.mu.Unlock()
		if err != nil && !strings.HasSuffix(log.String(), "error: interrupted\n") {
			t.Errorf("at %s: %v\n%s", at, err, &log)
		}
		if leases, err := place.list("leases/"); err != nil || len(leases) > 0 {
			t.Errorf("at %s: leases left behind: %v %v\n%s", at, leases, err, &log)
		}
		got := must[put](t)(answer[put](r.out(path)))
		if err := w.look(); err != nil {
			t.Errorf("at %s, and put again: %v", at, err)
		}
		if got.Version.Path != path.String() {
			t.Errorf("at %s, and put again: got %+v, want %s", at, got.Version, path)
		}
	}
}
