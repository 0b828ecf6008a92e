package host

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

func TestSwitch(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("b")
	m.comesTo(Switched)
	m.is("b", "b", "b")
	if got, want := m.activations(), "test b, boot b"; got != want {
		t.Errorf("want activations %q, got %q", want, got)
	}
	m.comesTo(NothingNew)
	if got := m.activations(); got != "" {
		t.Errorf("a run with nothing new has activated %q", got)
	}
	m.put("c")
	m.put("a")
	m.comesTo(Switched)
	m.is("a", "a", "a")
	if got := m.activations(); strings.Contains(got, "c") {
		t.Errorf("a generation that was not the newest any more was activated: %q", got)
	}
}

// Each system that isn't kept, and what runs and is booted afterwards.
func TestWhatIsNotKept(t *testing.T) {
	for _, test := range []struct {
		system      string
		want        Result
		sentence    string
		activations string
	}{
		{"failing", Failed, "its activation failed", "test failing, test failing, test a"},
		{"idle", Failed, "its activation succeeded, but", "test idle, test a"},
		{"sick", Failed, "web is red", "test sick, test a"},
		{"hanging", Failed, "it took longer than 1s", "test hanging, test hanging, test a"},
		{"cut-off", Failed, "connection to the cache is red (cut-off)", "test cut-off, test a"},
		{"outage", Inconclusive, "connection to the cache is red (outage); and on the old system connection to the cache is red (outage), too", "test outage, test a"},
		{"stubborn", Failed, "it could not be made what the machine boots", "test stubborn, boot stubborn, boot stubborn, boot a, test a"},
		{"loaderless", Inconclusive, "and on the old system boot loader is red", "test loaderless, boot loaderless, boot loaderless, boot a, boot a, test a"},
		{"inhibited", Waiting, "changes what must not change while the system runs (systemd)", ""},
		{"odd", Refused, "switch-inhibitors is not an object of texts", ""},
	} {
		t.Run(test.system, func(t *testing.T) {
			m := newMachine(t)
			m.Config.ActivationTimeout = Duration(time.Second)
			m.comesTo(NothingNew)
			m.put(test.system)
			outcome := m.comesTo(test.want)
			if !strings.Contains(outcome.Sentence, test.sentence) {
				t.Errorf("want a sentence with %q, got %q", test.sentence, outcome.Sentence)
			}
			m.is("a", "a", "a")
			if got := m.activations(); got != test.activations {
				t.Errorf("want activations %q, got %q", test.activations, got)
			}

			// It isn't tried again by itself, nor after a reboot.
			m.comesTo(test.want)
			m.cutPower()
			m.comesTo(test.want)
			if got := m.activations(); got != "" {
				t.Errorf("it was tried again: %q", got)
			}

			// A newer one is tried at once.
			must(t, os.RemoveAll(m.file("no-boot-loader")))
			must(t, os.RemoveAll(m.file("outage")))
			m.put("b")
			m.comesTo(Switched)
			m.is("b", "b", "b")
		})
	}
}

// What a failed generation is known by is its number and its path.
func TestFailedGenerationUnderANewNumber(t *testing.T) {
	m := newMachine(t)
	m.put("sick")
	m.comesTo(Failed)
	m.put("a")
	m.comesTo(NothingNew)
	m.put("sick")
	m.activations()
	m.comesTo(Failed)
	if got, want := m.activations(), "test sick, test a"; got != want {
		t.Errorf("want activations %q, got %q", want, got)
	}
}

func TestRetry(t *testing.T) {
	m := newMachine(t)
	m.put("failing")
	m.comesTo(Failed)
	m.activations()
	m.Request.Retry = true
	m.comesTo(Failed)
	if got := m.activations(); !strings.HasPrefix(got, "test failing") {
		t.Errorf("it was not tried again: %q", got)
	}
}

// The pauses between attempts that can't be judged grow, and don't grow for ever.
func TestInconclusive(t *testing.T) {
	m := newMachine(t)
	m.put("outage")
	m.comesTo(Inconclusive)
	for _, pause := range []time.Duration{10 * time.Minute, 20 * time.Minute, 40 * time.Minute} {
		m.activations()
		must(t, os.Remove(m.file("outage")))
		m.advance(pause - time.Second)
		m.comesTo(Inconclusive)
		if got := m.activations(); got != "" {
			t.Errorf("it was tried again before %s were over: %q", pause, got)
		}
		m.advance(time.Second)
		m.comesTo(Inconclusive)
		if got := m.activations(); got == "" {
			t.Errorf("it was not tried again after %s", pause)
		}
	}
	if got, want := pauseAfter(1000), 12*time.Hour; got != want {
		t.Errorf("want a pause of %s in the end, got %s", want, got)
	}
}

// What was red before doesn't count against the new system.
func TestBaseline(t *testing.T) {
	m := newMachine(t)
	m.Config.Health.Required = append(m.Config.Health.Required, Check{
		Name: "broken", Command: []string{"/bin/sh", "-c", "exit 1"},
	})
	must(t, m.Config.check())
	m.put("b")
	m.comesTo(Switched)
	m.put("sick")
	outcome := m.comesTo(Failed)
	if strings.Contains(outcome.Sentence, "broken") {
		t.Errorf("the sentence blames what was red before: %q", outcome.Sentence)
	}
	m.is("b", "b", "b")
}

// A wanted check that is red stops nothing.
func TestWantedCheck(t *testing.T) {
	m := newMachine(t)
	m.Config.Health.Wanted = m.Config.Health.Required
	m.Config.Health.Required = nil
	m.put("sick")
	m.comesTo(Switched)
}

// What is well at first, and then isn't, is left.
func TestSoak(t *testing.T) {
	m := newMachine(t)
	m.put("b")
	h, err := m.agent().host(t.Logf)
	must(t, err)
	h.Sleep = func(context.Context, time.Duration) error { return os.WriteFile(m.file("cut-off"), nil, 0o644) }
	outcome, err := h.Follow(t.Context(), Request{})
	must(t, err)
	if outcome.Result != Failed || !strings.Contains(outcome.Sentence, "it was well, and then was not") {
		t.Errorf("want failed, got %s: %s", outcome.Result, outcome.Sentence)
	}
	m.is("a", "a", "a")
}

func TestModes(t *testing.T) {
	m := newMachine(t)
	m.put("b")
	m.Config.Mode = DryActivate
	m.comesTo(Shown)
	m.is("a", "a", "a")
	m.Config.Mode = Test
	m.comesTo(Tested)
	m.is("b", "a", "a")
	m.comesTo(NothingNew)
	m.activations()
	m.cutPower()
	m.is("a", "a", "a")
	m.comesTo(Tested)
	m.is("b", "a", "a")
	m.Config.Mode = Switch
	m.comesTo(Switched)
	m.is("b", "b", "b")
}

// A system with another kernel runs once it is proven, but the machine goes on
// booting the old one: a boot is something else than what was proven.
func TestKernel(t *testing.T) {
	m := newMachine(t)
	m.put("kernel")
	if outcome := m.comesTo(Tested); !outcome.NeedsReboot {
		t.Error("want it to need a reboot")
	}
	m.is("kernel", "a", "a")
	if outcome := m.comesTo(NothingNew); !outcome.NeedsReboot {
		t.Error("want it to need a reboot still")
	}
	m.put("b")
	m.comesTo(Switched)
	m.is("b", "b", "b")
	m.put("kernel")
	m.comesTo(Tested)
	m.cutPower()
	m.is("b", "b", "b")
	m.comesTo(Tested)
	m.is("kernel", "b", "b")
}

func TestHold(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("b")
	must(t, WriteHold(m.Config.StateDir, Hold{m.now().Add(time.Hour), "the auditors are here"}))
	outcome := m.comesTo(Held)
	if !strings.Contains(outcome.Sentence, "the auditors are here") {
		t.Errorf("the sentence doesn't say why: %q", outcome.Sentence)
	}
	m.advance(time.Hour - time.Second)
	m.comesTo(Held)
	m.advance(time.Second)
	m.comesTo(Switched)

	m.put("c")
	must(t, WriteHold(m.Config.StateDir, Hold{m.now().Add(time.Hour), "again"}))
	m.Request.Now = true
	m.comesTo(Switched)
	m.Request.Now = false
	m.put("b")
	m.comesTo(Held)
	if held, err := Release(m.Config.StateDir); !held || err != nil {
		t.Errorf("want it to have been held, got %v, %v", held, err)
	}
	m.comesTo(Switched)
	if held, err := Release(m.Config.StateDir); held || err != nil {
		t.Errorf("want it not to have been held, got %v, %v", held, err)
	}
}

// Hosts that see a generation at the same time act at different times, which
// count from when it was seen, not from when they look again.
func TestSpread(t *testing.T) {
	m := newMachine(t)
	m.Config.Spread = Duration(time.Hour)
	m.comesTo(NothingNew)
	g := m.put("b")
	turns := map[time.Time]bool{}
	r := &run{state: &State{Pointer: "web-1", Offered: &Offered{FirstSeen: m.now().Unix()}}}
	for _, name := range []string{"web-1", "web-2", "web-3", "web-4", "web-5", "web-6", "web-7"} {
		r.config.Name, r.config.Spread = name, m.Config.Spread
		turn := r.turn(g)
		if turn.Before(m.now()) || turn.Sub(m.now()) >= time.Hour {
			t.Errorf("it is the turn of %s at %s", name, turn)
		}
		turns[turn] = true
	}
	if len(turns) < 6 {
		t.Errorf("7 hosts have %d turns", len(turns))
	}
	r.config = m.Config
	turn := r.turn(g)
	m.comesTo(Waiting)
	m.setClock(turn.Add(-time.Second))
	m.comesTo(Waiting)
	m.put("c") // what waits is dropped for a newer one
	m.comesTo(Waiting)
	m.advance(time.Hour)
	m.comesTo(Switched)
	m.is("c", "c", "c")
	if got := m.activations(); strings.Contains(got, "test b") {
		t.Errorf("what waited was activated: %q", got)
	}
	m.put("b")
	m.Request.Now = true
	m.comesTo(Switched)
}

// Somebody has switched by hand.
func TestDrift(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("b")
	m.comesTo(Switched)
	a := m.lab.systems["a"].String()
	must(t, replaceLink(m.file("run/current-system"), a))
	m.activations()
	outcome := m.comesTo(Drift)
	if !strings.Contains(outcome.Sentence, a) {
		t.Errorf("the sentence doesn't say what runs: %q", outcome.Sentence)
	}
	m.comesTo(Drift)
	if got := m.activations(); got != "" {
		t.Errorf("a system that somebody has changed was touched: %q", got)
	}
	m.put("c")
	m.comesTo(Switched)
	m.is("c", "c", "c")

	must(t, replaceLink(m.file("run/current-system"), a))
	m.comesTo(Drift)
	m.Request.Now = true
	m.comesTo(Switched)
	m.is("c", "c", "c")
	m.comesTo(NothingNew)
}

// The profile alone counts, too: somebody wants something else at the next boot.
func TestDriftOfTheProfile(t *testing.T) {
	m := newMachine(t)
	m.put("b")
	m.comesTo(Switched)
	m.store.Run(t, "nix", "build", "--offline", "--no-link", "--profile", m.Config.Profile, m.lab.systems["a"].String())
	m.comesTo(Drift)
	m.is("b", "a", "b")
}

// Somebody switches while a new system is examined: it is theirs from then on.
func TestDriftDuringATrial(t *testing.T) {
	m := newMachine(t)
	m.put("c")
	m.comesTo(Switched)
	m.put("b")
	h, err := m.agent().host(t.Logf)
	must(t, err)
	h.Sleep = func(context.Context, time.Duration) error {
		return replaceLink(m.file("run/current-system"), m.lab.systems["a"].String())
	}
	m.activations()
	outcome, err := h.Follow(t.Context(), Request{})
	must(t, err)
	if outcome.Result != Drift {
		t.Errorf("want drift, got %s: %s", outcome.Result, outcome.Sentence)
	}
	m.is("a", "c", "c")
	if got, want := m.activations(), "test b"; got != want {
		t.Errorf("want activations %q, got %q", want, got)
	}
	m.comesTo(Drift)
}

// A run waits for no other.
func TestTwoRuns(t *testing.T) {
	m := newMachine(t)
	lock, err := takeLock(m.Config.StateDir)
	must(t, err)
	m.comesTo(Waiting)
	must(t, lock.release())
	m.comesTo(NothingNew)
}

// The store, the keys and Nix are as they are on a host; the cache is gone.
func TestCacheAway(t *testing.T) {
	m := newMachine(t)
	m.put("b")
	m.comesTo(Switched)
	g := m.put("c")
	must(t, os.Rename(m.cache+"/nar", m.cache+"/nars"))
	outcome := m.comesTo(Unreachable)
	if outcome.Generation != g.Number {
		t.Errorf("want generation %d, got %d", g.Number, outcome.Generation)
	}
	if !strings.Contains(outcome.Sentence, "nar/") {
		t.Errorf("the sentence doesn't say what is missing: %q", outcome.Sentence)
	}
	if strings.Contains(outcome.Sentence, "\n") {
		t.Errorf("the sentence has several lines: %q", outcome.Sentence)
	}
	must(t, replaceLink(m.cache+"/pointers/web-1.json", "web-1.json")) // can't be read
	m.comesTo(Unreachable)
	m.is("b", "b", "b")
}

// Nix's collector spares what a host may need: what runs, what it goes back to,
// and what it has fetched.
func TestGarbageCollector(t *testing.T) {
	m := newMachine(t)
	for _, name := range []string{"b", "c", "sick"} {
		m.put(name)
		m.follow()
	}
	m.store.Run(t, "nix-store", "--gc")
	m.is("c", "c", "c")
	valid := m.store.All(t)
	has := func(name string) bool {
		for _, info := range valid {
			if info.Path == m.lab.systems[name] {
				return true
			}
		}
		return false
	}
	for name, want := range map[string]bool{"c": true, "sick": true} {
		if got := has(name); got != want {
			t.Errorf("%s is there: %v", name, got)
		}
	}
}

// The roots of generations that are of no use any more go, but for the highest.
func TestRoots(t *testing.T) {
	m := newMachine(t)
	for _, name := range []string{"b", "c", "a", "b"} {
		m.put(name)
		m.comesTo(Switched)
	}
	roots, err := m.Config.roots("web-1")
	must(t, err)
	var numbers []uint64
	for number := range roots {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	if want := []uint64{4, 5}; !slices.Equal(numbers, want) { // a, to go back to, and b
		t.Errorf("want roots of %d, got %d", want, numbers)
	}
}

// The highest number is a memory, be its path of use or not.
func TestHighestRootStays(t *testing.T) {
	c := Config{GCRoots: t.TempDir()}
	path, other := somePath(t), systems(t).systems["a"]
	for name, path := range map[string]nix.StorePath{"web-1-9": path, "web-1-10": path, "web-1-2": other, "web-1-x": path, "web-1-5-99": path} {
		must(t, c.addRoot(name, path))
	}
	must(t, c.pruneRoots("web-1", other))
	roots, err := c.roots("web-1")
	must(t, err)
	if diff := cmp.Diff(map[uint64]string{10: path.String(), 2: other.String()}, texts(roots)); diff != "" {
		t.Errorf("roots (-want +got)\n%s", diff)
	}
	if roots, err = c.roots("web-1-5"); err != nil || len(roots) != 1 {
		t.Errorf("the root of another pointer is gone: %v, %v", roots, err)
	}
}

func texts(roots map[uint64]nix.StorePath) map[uint64]string {
	m := map[uint64]string{}
	for number, path := range roots {
		m[number] = path.String()
	}
	return m
}

// If we can't serve the closure, Nix may be able to fetch it by its own settings.
func TestNixFetchesByItself(t *testing.T) {
	m := newMachine(t)
	m.put("b")
	other := m.cache + "-of-nix"
	must(t, os.CopyFS(other, os.DirFS(m.cache)))
	must(t, os.Rename(m.cache+"/nar", m.cache+"/nars"))
	m.store.Configure(t, "substituters = file://"+other+"\ntrusted-public-keys = "+m.lab.key.Public().String())
	m.comesTo(Switched)
	m.is("b", "b", "b")
}

// A generation that is renewed is not one that was just seen.
func TestTurnOfARenewedGeneration(t *testing.T) {
	m := newMachine(t)
	m.Config.Spread = Duration(time.Hour)
	m.comesTo(NothingNew)
	g := m.put("b")
	m.comesTo(Waiting)
	turn := (&run{config: m.Config, state: &State{Pointer: "web-1", Offered: &Offered{FirstSeen: m.now().Unix()}}}).turn(g)
	m.setClock(turn.Add(-time.Second))
	renewing := pointer.New(blob.NewDirectory(m.cache), pointer.Config{
		Name: "web-1", PublicKeys: nix.Keys{m.lab.key.Public()}, RequireSigs: true, SigningKeys: []nix.SecretKey{m.lab.key}, Now: m.now, ExpiresAfter: 24 * time.Hour,
	})
	outcome, err := renewing.Append(t.Context(), pointer.Proposal{Path: g.Path, System: g.System, NarHash: g.NarHash})
	must(t, err)
	if !outcome.Renewed {
		t.Fatal("it was not renewed")
	}
	m.comesTo(Waiting)
	m.setClock(turn)
	m.comesTo(Switched)
}
