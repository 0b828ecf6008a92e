package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
)

// newBootingMachine is one that may be rebooted, by a command that does what kexec
// and systemctl would.
func newBootingMachine(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	m.Config.Reboot = Kexec
	m.comesTo(NothingNew)
	return m
}

// A system with another kernel is booted once, and made the default when it is
// proven in that boot.
func TestBootTrial(t *testing.T) {
	for _, system := range []string{"kernel", "inhibited"} {
		m := newBootingMachine(t)
		m.put(system)
		m.comesTo(Booting)
		m.is(system, "a", "a")
		outcome := m.comesTo(Switched)
		if outcome.NeedsReboot {
			t.Error("it needs a reboot after a reboot")
		}
		m.is(system, system, system)
		if got, want := m.activations(), "boot-once "+system+", boot "+system; got != want {
			t.Errorf("want activations %q, got %q", want, got)
		}
		m.comesTo(NothingNew)
	}
}

func TestModeBoot(t *testing.T) {
	m := newBootingMachine(t)
	m.Config.Mode = Boot
	m.put("b")
	m.comesTo(Booting)
	m.comesTo(Switched)
	m.is("b", "b", "b")
}

// What isn't proven in its boot is left by another one, and judged in that.
func TestBootTrialFails(t *testing.T) {
	for system, activations := range map[string]string{
		"sick-kernel":     "boot-once sick-kernel, reboot",
		"stubborn-kernel": "boot-once stubborn-kernel, boot stubborn-kernel, boot stubborn-kernel, boot a, reboot",
	} {
		m := newBootingMachine(t)
		m.put(system)
		m.comesTo(Booting)
		m.is(system, "a", "a")
		m.comesTo(Booting)
		m.is("a", "a", "a")
		m.comesTo(Failed)
		if got := m.activations(); got != activations {
			t.Errorf("want activations %q, got %q", activations, got)
		}
		m.comesTo(Failed)
		m.put("kernel")
		m.comesTo(Booting)
		m.comesTo(Switched)
	}
}

// It doesn't come up. The machine has booted its default, and nobody has had a
// verdict: twice is enough.
func TestBootTrialPanics(t *testing.T) {
	m := newBootingMachine(t)
	m.put("panics")
	m.comesTo(Booting)
	m.is("a", "a", "a")
	m.comesTo(Booting)
	m.is("a", "a", "a")
	outcome := m.comesTo(Failed)
	if !strings.Contains(outcome.Sentence, "it never came back") {
		t.Errorf("got the sentence %q", outcome.Sentence)
	}
	if got, want := m.activations(), "boot-once panics, boot-once panics"; got != want {
		t.Errorf("want activations %q, got %q", want, got)
	}
}

// Nobody examines the system in its boot: the run there is killed. The deadline
// leads back.
func TestBootTrialDeadline(t *testing.T) {
	m := newBootingMachine(t)
	m.put("kernel")
	m.Config.Deadline = 1e9 / 2
	m.comesTo(Booting)
	a := m.agent()
	a.KillAfter = "deadline"
	if _, killed := m.runAgent(a); !killed {
		t.Fatal("the run was not killed")
	}
	m.waitFor(func() bool { return m.name("run/current-system") == "a" && !m.begun(deadlineUnit) })
	m.Config.Deadline = 0
	m.comesTo(Booting)
	m.comesTo(Switched)
	m.is("kernel", "kernel", "kernel")
}

// It can't be booted into: that isn't the generation's fault, and nothing loops.
func TestBootOnceFails(t *testing.T) {
	m := newBootingMachine(t)
	m.put("kernel")
	m.Config.Activate = append([]string{"/bin/sh", "-c", `[ "$4" != boot-once ]`}, m.Config.Activate...)
	m.comesTo(Inconclusive)
	m.comesTo(Inconclusive)
	m.is("a", "a", "a")
	s, err := ReadState(m.Config.StateDir)
	must(t, err)
	if s.Trial != nil || s.Unclear.Times != 1 {
		t.Errorf("got the trial %+v and %+v", s.Trial, s.Unclear)
	}
}

// Runs are killed, and power is cut, after each step of a trial by a boot.
func TestKilledInABootTrial(t *testing.T) {
	for system, end := range map[string]string{"kernel": "kernel", "stubborn-kernel": "a"} {
		t.Run(system, func(t *testing.T) {
			for _, afterwards := range []string{"run", "power cut"} {
				for run, steps := 1, 0; run <= 3; run++ { // which is killed
					for step := 1; ; step++ {
						m := newBootingMachine(t)
						m.put(system)
						for range run - 1 {
							m.follow()
						}
						name, killed := m.followKilled(step)
						if !killed {
							break
						}
						steps++
						s, err := ReadState(m.Config.StateDir)
						must(t, err)
						proven := s.Proven != nil && s.Proven.Path == m.lab.systems[system] || s.Trial != nil && (s.Trial.Stage == stageProven || s.Trial.Kept)
						if m.name("boot/default") != "a" && !proven {
							t.Errorf("%s is booted, and not proven", m.name("boot/default"))
						}
						if m.name("run/current-system") != "a" && !proven && s.Trial == nil {
							t.Errorf("%s runs, is not proven, and nobody knows the way back", m.name("run/current-system"))
						}
						if afterwards == "power cut" {
							m.cutPower()
						}
						var outcome Outcome
						want := map[bool]Result{true: NothingNew, false: Failed}[end == system]
						for range 6 { // a trial takes three runs, and a second attempt may be due
							if outcome = m.follow(); outcome.Result == want {
								break
							}
						}
						if outcome.Result != want {
							t.Errorf("want %s in the end, got %s: %s", want, outcome.Result, outcome.Sentence)
						}
						m.is(end, end, end)
						if t.Failed() {
							t.Fatalf("run %d, %s, then a %s", run, name, afterwards)
						}
					}
					if run == 3 && steps < 12 {
						t.Errorf("there are but %d steps", steps)
					}
				}
			}
		})
	}
}

// What kexec is told, as NixOS has it in boot.json, or from before there was one.
func TestKexecArguments(t *testing.T) {
	newMachine(t) // whose store it is
	store, err := nixcmd.Open(t.Context(), nixcmd.Options{})
	must(t, err)
	r := &run{store: store, config: Defaults()}
	r.config.Reboot = Kexec
	path := somePath(t)
	system := store.RealPath(path)
	must(t, os.Chmod(filepath.Dir(system), 0o755))
	must(t, os.MkdirAll(filepath.Join(system, "etc/systemd/system"), 0o755))
	write := func(name, text string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(system, name), []byte(text), 0o644))
	}
	write("kernel-params", "loglevel=4 panic=10")
	arguments, err := r.kexecArguments(path)
	must(t, err)
	p := path.String()
	if diff := cmp.Diff([]string{"--load", p + "/kernel", "--initrd=" + p + "/initrd", "--command-line=init=" + p + "/init loglevel=4 panic=10"}, arguments); diff != "" {
		t.Errorf("without boot.json (-want +got)\n%s", diff)
	}
	write("boot.json", `{"org.nixos.bootspec.v1": {"kernel": "/nix/store/k/bzImage", "initrd": "/nix/store/i/initrd", "init": "/nix/store/s/init", "kernelParams": ["a=1", "b"], "label": "x"}}`)
	arguments, err = r.kexecArguments(path)
	must(t, err)
	if diff := cmp.Diff([]string{"--load", "/nix/store/k/bzImage", "--initrd=/nix/store/i/initrd", "--command-line=init=/nix/store/s/init a=1 b"}, arguments); diff != "" {
		t.Errorf("with boot.json (-want +got)\n%s", diff)
	}
	refused := func(why string) {
		t.Helper()
		if err := r.canBootOnce(path); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("want an error with %q, got %v", why, err)
		}
	}
	refused("it would not be examined after the boot")
	write(unitFiles[0], "")
	refused("it would not be examined after the boot")
	write(unitFiles[1], "")
	if err := r.canBootOnce(path); err != nil {
		t.Error(err)
	}
	write("boot.json", `{"org.nixos.bootspec.v1": {"kernel": "/k", "initrd": "/i", "init": "/s", "initrdSecrets": "/append"}}`)
	refused("secrets that only the boot loader's files have")
	write("boot.json", `{`)
	refused("boot.json")
	must(t, os.RemoveAll(system))
}
