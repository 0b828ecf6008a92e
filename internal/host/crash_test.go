package host

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// Runs are killed after each step that changes something.
//
// Then nothing may be booted by default that was not proven, and what runs is
// proven, or there is a trial that knows the way back. A run that comes next, or
// a power cut and the run after it, or nothing but the deadline, must each lead
// to where a run that nobody kills leads to.
func TestKilledAfterEachStep(t *testing.T) {
	for _, test := range []struct {
		system     string
		want       Result
		end        string // what runs and is booted in the end
		afterwards []string
	}{
		{"b", Switched, "b", []string{"run", "power cut", "deadline"}},
		{"sick", Failed, "a", []string{"run", "power cut"}},
		{"stubborn", Failed, "a", []string{"run", "power cut"}},
	} {
		t.Run(test.system, func(t *testing.T) {
			for _, afterwards := range test.afterwards {
				t.Run(afterwards, func(t *testing.T) {
					for step := 1; step < 40; step++ { // so many there are not
						if !killOnce(t, test.system, step, afterwards, test.want, test.end) {
							if step < 8 {
								t.Errorf("the run has but %d steps", step-1)
							}
							break
						}
					}
				})
			}
		})
	}
}

func killOnce(t *testing.T, system string, step int, afterwards string, want Result, end string) (killed bool) {
	t.Helper()
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put(system)
	if afterwards == "deadline" {
		m.Config.Deadline = Duration(500 * time.Millisecond)
	}
	name, killed := m.followKilled(step)
	if !killed {
		return false
	}
	wrong := func(format string, args ...any) {
		t.Helper()
		t.Errorf(name+": "+format, args...)
	}
	s, err := ReadState(m.Config.StateDir)
	must(t, err)
	proven := s.Proven != nil && s.Proven.Path == m.lab.systems[system] || s.Trial != nil && s.Trial.Stage == stageProven
	condemnedLate := s.Trial != nil && s.Trial.Kept // it was proven, and could not be made the default
	if boots := m.name("boot/default"); boots != "a" && !proven && !condemnedLate {
		wrong("%s is booted, and not proven", boots)
	}
	if running := m.name("run/current-system"); running != "a" && !proven && s.Trial == nil {
		wrong("%s runs, is not proven, and nobody knows the way back", running)
	}
	switch afterwards {
	case "power cut":
		m.cutPower()
		if boots := m.name("run/current-system"); boots != "a" && !proven {
			wrong("the machine has come up with %s", boots)
		}
	case "deadline":
		m.waitFor(func() bool {
			s, err := ReadState(m.Config.StateDir)
			must(t, err)
			// Where there is no trial, or one that is proven, nobody has to go back; one
			// that is not armed yet, has not been activated either.
			settled := s.Trial == nil || s.Trial.Stage == stageProven || s.Trial.Back || m.name("run/current-system") == "a"
			return settled && !m.begun(deadlineUnit)
		})
		if s, err = ReadState(m.Config.StateDir); err != nil {
			t.Fatal(err)
		}
		if running := m.name("run/current-system"); running != "a" && s.Trial != nil && s.Trial.Stage != stageProven {
			wrong("%s runs after the deadline, and is not proven", running)
		}
		m.Config.Deadline = 0
	}
	outcome := m.follow()
	for range 2 { // what was done before the end need not be done again, and a second attempt may be due
		if outcome.Result == want {
			break
		}
		outcome = m.follow()
	}
	if outcome.Result != want && !(want == Switched && outcome.Result == NothingNew) {
		wrong("want %s in the end, got %s: %s", want, outcome.Result, outcome.Sentence)
	}
	m.is(end, end, end)
	if t.Failed() {
		t.Fatalf("after %s and a %s", name, afterwards)
	}
	return true
}

// begun says whether a unit is there.
func (m *machine) begun(unit string) bool {
	m.t.Helper()
	u := &processUnits{dir: m.Config.StateDir + "/units"}
	leader, err := u.leader(unit)
	must(m.t, err)
	if leader.pid == 0 {
		return false
	}
	members, err := sessionOf(leader)
	must(m.t, err)
	return len(members) > 0
}

func (m *machine) waitFor(done func() bool) {
	m.t.Helper()
	for began := time.Now(); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			m.t.Fatal("it hasn't happened within a minute")
		}
	}
}

// The new system kills whoever activates it. Twice is enough.
func TestNeverCameBack(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("deadly")
	for range 2 {
		if _, killed := m.followKilled(0); !killed {
			t.Fatal("the run was not killed")
		}
	}
	outcome := m.comesTo(Failed)
	if !strings.Contains(outcome.Sentence, "it never came back: 2 attempts have ended without a verdict") {
		t.Errorf("got the sentence %q", outcome.Sentence)
	}
	m.is("a", "a", "a")
	m.activations()
	m.comesTo(Failed)
	if got := m.activations(); got != "" {
		t.Errorf("it was tried again: %q", got)
	}
}

// A run that hangs is no reason to stay with what is not proven.
func TestHangingRun(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("b")
	m.Config.Deadline = Duration(500 * time.Millisecond)
	a := m.agent()
	a.Stop, a.KillAfter = true, "activation test"
	if _, killed := m.runAgent(a); !killed {
		t.Fatal("the run was not ended")
	}
	m.waitFor(func() bool { return m.name("run/current-system") == "a" && !m.begun(deadlineUnit) })
	m.Config.Deadline = 0
	m.comesTo(Switched) // it is an attempt without a verdict, and the next one has one
	m.is("b", "b", "b")
}

// The run is killed while its activation is at work, which goes on without it. The
// next run ends that before it does anything else.
func TestActivationWithoutARun(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("undead")
	for range 2 {
		if _, killed := m.followKilled(0); !killed {
			t.Fatal("the run was not killed")
		}
		if !m.begun(activationUnit) {
			t.Fatal("the activation has ended with its run")
		}
	}
	m.comesTo(Failed)
	m.is("a", "a", "a")
	for _, unit := range []string{activationUnit, deadlineUnit} {
		if m.begun(unit) {
			t.Errorf("%s is still there", unit)
		}
	}
}

// Whoever shuts down the machine during a trial, again and again, doesn't make the
// generation fail; nor does the trial begin again and again.
func TestInterruptedTrial(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("b")
	for times := 1; times <= 3; times++ {
		ctx, cancel := context.WithCancel(t.Context())
		h, err := m.agent().host(t.Logf)
		must(t, err)
		h.Sleep = func(context.Context, time.Duration) error {
			cancel()
			return ctx.Err()
		}
		if outcome, err := h.Follow(ctx, Request{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("want the run to be cancelled, got %+v, %v", outcome, err)
		}
		if times == 2 {
			m.cutPower()
		}
		m.comesTo(Inconclusive)
		m.is("a", "a", "a")
		m.advance(pauseAfter(times))
	}
	m.comesTo(Switched)
}

// A run that is told to end while it activates leaves the activation at work.
func TestInterruptedActivation(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("hanging")
	h, err := m.agent().host(t.Logf)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil && !strings.Contains(m.log(), "test hanging") {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if outcome, err := h.Follow(ctx, Request{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("want the run to be cancelled, got %+v, %v", outcome, err)
	}
	if !m.begun(activationUnit) {
		t.Error("the activation has ended with its run")
	}
	m.comesTo(Inconclusive)
	m.is("a", "a", "a")
	if m.begun(activationUnit) {
		t.Error("it was not ended by the next run")
	}
}
