package e2e_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A release is a cache of candidates, from which they are promoted to another
// one, that hosts use and that has a key of its own.
type release struct {
	candidates, hosts *rig
}

func newRelease(t *testing.T, cache place) release {
	n := nixtest.Current(t)
	r := release{newRig(t, n, directory(t.TempDir())), newRig(t, n, cache)}
	r.candidates.key = nixtest.NewKey(t, "staging.example.org-1")
	return r
}

// candidate puts the next system to the cache of candidates, and gets it into a
// directory of its own.
func (r release) candidate(t *testing.T, all bool) (input string, path nix.StorePath) {
	t.Helper()
	path = r.candidates.nextSystem(t, all)
	v := must[put](t)(answer[put](r.candidates.out(path))).Version
	input = "candidate-" + v.Generation
	dir := filepath.Join(r.hosts.sources, input)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	must[put](t)(answer[put](call("in", dir, []string{}, map[string]any{
		"source": r.candidates.follower(), "version": v, "params": map[string]any{"format": "none"},
	})))
	return input, path
}

// promote is a promotion of what was got to the pointers web-2 and web-1, where
// there is no Nix.
func (r release) promote(input string) *program {
	source := r.hosts.publisher()
	source["from"] = map[string]any{
		"cache":               r.candidates.cache.source()["cache"],
		"trusted_public_keys": r.candidates.key.Public,
	}
	return call("out", r.hosts.sources, []string{}, map[string]any{
		"source": source,
		"params": map[string]any{"promote": input, "to": "web-2"},
	})
}

// Killed at any instant, a promotion from another cache leaves one that keeps
// its promises; run again, it finishes, and each pointer has moved once.
func TestKilledPromotion(t *testing.T) { inEachPlace(t, testKilledPromotion) }

func testKilledPromotion(t *testing.T, cache place) {
	r := newRelease(t, cache)
	w := newWitness(r.hosts)
	input, path := r.candidate(t, true)
	start := time.Now()
	must[put](t)(answer[put](r.promote(input)))
	whole := time.Since(start)

	for n := 2; n < 5; n++ {
		input, path = r.candidate(t, true)
		for range kills / 4 {
			cmd := r.promote(input)
			moment := rand.N(whole)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(moment, func() { cmd.Process.Kill() })
			t.Logf("killed after %v of %v: %v", moment, whole, cmd.Wait())
			if err := w.look(); err != nil {
				t.Fatalf("killed after %v:\n%v", moment, err)
			}
		}

		got := must[put](t)(answer[put](r.promote(input)))
		if diff := cmp.Diff(version{strconv.Itoa(n), path.String()}, got.Version); diff != "" {
			t.Fatalf("killed several times and run again (-want +got):\n%s", diff)
		}
		if err := w.look(); err != nil {
			t.Fatalf("killed several times and run again:\n%v", err)
		}
		for _, pointer := range []string{"web-1", "web-2"} {
			text := must[[]byte](t)(cache.read("pointers/" + pointer))
			if string(text) != path.String()+"\n" {
				t.Errorf("killed several times and run again: %s leads to %s, want %s", pointer, text, path)
			}
			if got, want := len(r.origins(t, pointer)), n; got != want {
				t.Errorf("killed several times and run again: %s has %d generations, want %d", pointer, got, want)
			}
		}
	}
	want := facts(r.candidates.store.Closure(t, path))
	for _, url := range cache.substituters(r.hosts.nix) {
		if diff := cmp.Diff(want, facts(realise(t, url, r.hosts.key, r.hosts.nix, path.String()))); diff != "" {
			t.Errorf("what a host realises from %s (-tested +realised):\n%s", url, diff)
		}
	}
}

// Six promotions race for two pointers: none undoes a newer one, so what is
// promoted last is what was tested last.
func TestRacingPromotions(t *testing.T) { inEachPlace(t, testRacingPromotions) }

func testRacingPromotions(t *testing.T, cache place) {
	r := newRelease(t, cache)
	const racers = 6
	var inputs []string
	var last nix.StorePath
	for range racers {
		var input string
		input, last = r.candidate(t, false)
		inputs = append(inputs, input)
	}
	var group errgroup.Group
	for _, input := range inputs {
		group.Go(func() error {
			_, err := answer[put](r.promote(input))
			if err != nil && strings.Contains(err.Error(), "was promoted already") && input != inputs[racers-1] {
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, pointer := range []string{"web-1", "web-2"} {
		origins := r.origins(t, pointer)
		if !slices.IsSortedFunc(origins, func(a, b uint64) int { return int(b) - int(a) }) || origins[0] != racers {
			t.Errorf("%s was promoted to, newest first, the candidates %v", pointer, origins)
		}
	}
	if err := newWitness(r.hosts).look(); err != nil {
		t.Error(err)
	}
	if got := plain(t, r.hosts); got != last.String() {
		t.Errorf("the plain pointer is %s, want %s", got, last)
	}
}

// origins are the generations of candidates that a pointer's generations were
// promoted from, newest first.
func (r release) origins(t *testing.T, pointer string) []uint64 {
	t.Helper()
	var history struct {
		Generations []struct{ Details string }
	}
	text := must[[]byte](t)(r.hosts.cache.read("pointers/" + pointer + ".json"))
	if err := json.Unmarshal(text, &history); err != nil {
		t.Fatal(err)
	}
	var origins []uint64
	for _, g := range history.Generations {
		var details struct{ Origin struct{ Generation uint64 } }
		if err := json.Unmarshal([]byte(g.Details), &details); err != nil {
			t.Fatal(fmt.Errorf("%s: %w", g.Details, err))
		}
		origins = append(origins, details.Origin.Generation)
	}
	return origins
}
