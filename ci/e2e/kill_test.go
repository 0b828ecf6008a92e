package e2e_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

const kills = 20

// Killed at any instant, out leaves a cache that keeps its promises; run again,
// it finishes, with no generation more than without the kill (promises 1 to 4).
func TestKilledOut(t *testing.T) {
	r := newRig(t, nixtest.Current(t))
	w := newWitness(r)
	path := r.nextSystem(t, true)
	start := time.Now()
	must[put](t)(answer[put](r.out(path)))
	whole := time.Since(start)

	survived := 0
	for n := 2; n < 2+kills; n++ {
		path = r.nextSystem(t, true)
		cmd := r.out(path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		moment := rand.N(whole)
		time.AfterFunc(moment, func() { cmd.Process.Kill() })
		if cmd.Wait() == nil {
			survived++
		}
		if err := w.look(); err != nil {
			t.Fatalf("killed after %v:\n%v", moment, err)
		}

		got := must[put](t)(answer[put](r.out(path)))
		if diff := cmp.Diff(version{strconv.Itoa(n), path.String()}, got.Version); diff != "" {
			t.Fatalf("killed after %v and run again (-want +got):\n%s", moment, diff)
		}
		if err := w.look(); err != nil {
			t.Fatalf("killed after %v and run again:\n%v", moment, err)
		}
		if got := plain(t, r); got != path.String() {
			t.Fatalf("killed after %v and run again: the plain pointer stays at %s, want %s", moment, got, path)
		}
	}
	t.Logf("%d of %d were done before they were killed, within %v", survived, kills, whole)

	want := facts(r.store.Closure(t, path))
	if diff := cmp.Diff(want, facts(realise(t, r.cache, r.key, r.nix, plain(t, r)))); diff != "" {
		t.Errorf("what a host realises (-published +realised):\n%s", diff)
	}
	for _, g := range must[[]generation](t)(w.generations()) {
		r.store.Run(t, "nix", "path-info", "--recursive", "--store", "file://"+r.cache, g.Path)
	}
}

// Killed at any instant, in leaves nothing that looks whole and isn't (promise 6).
func TestKilledIn(t *testing.T) {
	r := newRig(t, nixtest.Current(t))
	path := r.nextSystem(t, false)
	v := must[put](t)(answer[put](r.out(path))).Version
	want := r.store.Closure(t, path)

	get := func(kill func(func())) (dir string) {
		dir = nixtest.TempDir(t)
		cmd := r.in(dir, v)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill(func() { cmd.Process.Kill() })
		cmd.Wait()
		return dir
	}
	start := time.Now()
	get(func(func()) {})
	whole := time.Since(start)

	unfinished := 0
	for range kills {
		moment := rand.N(whole)
		dir := get(func(kill func()) { time.AfterFunc(moment, kill) })
		if _, err := os.Stat(filepath.Join(dir, "generation.json")); err != nil {
			unfinished++
			continue
		}
		if diff := cmp.Diff(facts(want), facts(restored(t, r.nix, dir, path.String()))); diff != "" {
			t.Errorf("killed after %v it has generation.json, but not all of the closure (-want +got):\n%s", moment, diff)
		}
	}
	t.Logf("%d of %d were killed before they were done, within %v", unfinished, kills, whole)
}
