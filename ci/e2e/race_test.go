package e2e_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// Six puts race for one pointer in an empty cache: each gets a number of its
// own, and none is lost (promise 3).
func TestRacingOuts(t *testing.T) { inEachPlace(t, testRacingOuts) }

func testRacingOuts(t *testing.T, cache place) {
	r := newRig(t, nixtest.Current(t), cache)
	const racers = 6
	var paths []nix.StorePath
	for range racers {
		paths = append(paths, r.nextSystem(t, false))
	}

	var group errgroup.Group
	got := make([]version, racers)
	for i, path := range paths {
		group.Go(func() error {
			put, err := answer[put](r.out(path))
			got[i] = put.Version
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}

	slices.SortFunc(got, func(a, b version) int { return strings.Compare(a.Generation, b.Generation) })
	for i, v := range got {
		if v.Generation != strconv.Itoa(i+1) {
			t.Fatalf("the puts got these generations: %v", got)
		}
	}
	if diff := cmp.Diff(got, must[[]version](t)(answer[[]version](r.check(&got[0])))); diff != "" {
		t.Errorf("what check lists (-answered by out +listed):\n%s", diff)
	}
	if err := newWitness(r).look(); err != nil {
		t.Error(err)
	}
	newest := got[racers-1].Path
	if got := plain(t, r); got != newest {
		t.Errorf("the plain pointer is %s, want that of the newest generation, %s", got, newest)
	}
	for _, cache := range r.cache.substituters(r.nix) {
		realise(t, cache, r.key, r.nix, newest)
	}
}

// While one generation after the other is put, whoever reads finds a cache in
// order and a pointer to a closure that is whole: a host with stock Nix, check
// and in, and a witness of every file (promises 1 to 3 and 6).
func TestOutRacesReaders(t *testing.T) { inEachPlace(t, testOutRacesReaders) }

func testOutRacesReaders(t *testing.T, cache place) {
	r := newRig(t, nixtest.Current(t), cache)
	must[put](t)(answer[put](r.out(r.nextSystem(t, true))))
	var paths []nix.StorePath
	for range 12 {
		paths = append(paths, r.nextSystem(t, true))
	}

	var writers errgroup.Group
	t.Cleanup(func() { writers.Wait() })
	written := make(chan struct{})
	writers.Go(func() error {
		defer close(written)
		for _, path := range paths {
			if _, err := answer[put](r.out(path)); err != nil {
				return err
			}
		}
		return nil
	})
	looks := 0
	writers.Go(func() error {
		for w := newWitness(r); ; looks++ {
			over := isClosed(written)
			if err := w.look(); err != nil || over {
				return err
			}
		}
	})

	gets := 0
	for over := false; !over; gets++ {
		over = isClosed(written) // and once more
		urls := r.cache.substituters(r.nix)
		realise(t, urls[gets%len(urls)], r.key, r.nix, plain(t, r))
		v := must[[]version](t)(answer[[]version](r.check(nil)))[0]
		dir := nixtest.TempDir(t)
		must[put](t)(answer[put](r.in(dir, v)))
		restored(t, r.nix, dir, v.Path)
	}
	if err := writers.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("during %d puts: %d looks at every file, %d fetches each by Nix and by in", len(paths), looks, gets)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
