package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// The test binary is the program, too, by which units begin and trials end, and
// one that makes a run and may be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case UnitCommand:
			err = UnitMain(os.Args[2:])
		case EndTrialCommand:
			err = EndTrial(context.Background(), os.Args[2], os.Args[3], func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) })
		case agentCommand:
			err = agentMain(os.Args[2])
		default:
			code := m.Run()
			if theLab.dir != "" {
				exec.Command("chmod", "-R", "u+w", theLab.dir).Run()
				os.RemoveAll(theLab.dir)
			}
			os.Exit(code)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A lab has built all systems, and holds them in a cache.
type lab struct {
	once    sync.Once
	dir     string // with the cache, and the root of a machine to begin with
	key     nix.SecretKey
	systems map[string]nix.StorePath
	infos   map[string]nix.PathInfo
}

var theLab lab

// systems are built once for all tests.
func systems(t *testing.T) *lab {
	t.Helper()
	l := &theLab
	l.once.Do(func() { l.build(t) })
	if l.systems == nil {
		t.Fatal("the systems could not be built")
	}
	return l
}

func (l *lab) build(t *testing.T) {
	store := nixtest.Current(t).NewStore(t)
	config := filepath.Join(nixtest.Sample(t), "config")
	for _, file := range []string{"systems.nix", "switch-to-configuration"} {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		if err == nil {
			err = os.WriteFile(filepath.Join(config, file), data, 0o644)
		}
		must(t, err)
	}
	var err error
	l.key, err = nix.ParseSecretKey(nixtest.NewKey(t, "cache.example.org-1").Secret)
	must(t, err)
	l.dir, err = os.MkdirTemp("", "host-lab-")
	must(t, err)
	for name, value := range envMap(store.Env()) {
		t.Setenv(name, value)
	}
	ours, err := nixcmd.Open(t.Context(), nixcmd.Options{})
	must(t, err)
	c := cache.New(blob.NewDirectory(l.cache()), cache.Config{RequireSigs: true, SigningKeys: []nix.SecretKey{l.key}})
	built, infos := map[string]nix.StorePath{}, map[string]nix.PathInfo{}
	out := store.Run(t, "nix-build", "--no-out-link", filepath.Join(config, "systems.nix"))
	for line := range strings.Lines(out) {
		path, err := nix.ParseStorePath(strings.TrimSpace(line))
		must(t, err)
		name := strings.TrimSuffix(strings.TrimPrefix(path.Name(), "nixos-system-"), "-25.05")
		closure := store.Closure(t, path)
		_, err = c.Push(t.Context(), cache.PushRequest{Root: path, Infos: closure, Source: ours})
		must(t, err)
		built[name] = path
		for _, info := range closure {
			if info.Path == path {
				infos[name] = info
			}
		}
	}
	l.furnish(t, built["a"])
	l.systems, l.infos = built, infos
}

func (l *lab) cache() string { return filepath.Join(l.dir, "cache") }
func (l *lab) root() string  { return filepath.Join(l.dir, "root") }

// furnish makes the root of a machine that runs and boots a system.
func (l *lab) furnish(t *testing.T, system nix.StorePath) {
	store := nixtest.Current(t).OpenStore(t, l.root())
	for _, dir := range []string{"run", "boot", "nix/var/nix/profiles"} {
		must(t, os.MkdirAll(filepath.Join(l.root(), dir), 0o755))
	}
	store.Run(t, "nix", "build", "--no-link", "--profile", filepath.Join(l.root(), profileLink), system.String(),
		"--option", "substituters", "file://"+l.cache(), "--option", "trusted-public-keys", l.key.Public().String())
	for _, link := range []string{"run/current-system", "run/booted-system", "boot/default"} {
		must(t, os.Symlink(system.String(), filepath.Join(l.root(), link)))
	}
	for file, text := range map[string]string{"boot-id": "first", "log": ""} {
		must(t, os.WriteFile(filepath.Join(l.root(), file), []byte(text), 0o644))
	}
}

const profileLink = "nix/var/nix/profiles/system"

func envMap(env []string) map[string]string {
	m := map[string]string{}
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		m[name] = value
	}
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start is when each test begins.
var start = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// A machine is a host in a directory: a store of a real Nix, and links to what
// runs and what it boots. It runs and boots system a, and follows web-1.
type machine struct {
	t     *testing.T
	lab   *lab
	root  string
	store *nixtest.Store
	cache string // a directory with pointers of its own, and what the lab's has
	names map[nix.StorePath]string

	Config  Config
	Request Request
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	l := systems(t)
	m := &machine{t: t, lab: l, root: filepath.Join(nixtest.TempDir(t), "root"), cache: filepath.Join(nixtest.TempDir(t), "cache"), names: map[nix.StorePath]string{}}
	for name, path := range l.systems {
		m.names[path] = name
	}
	for from, to := range map[string]string{l.cache(): m.cache, l.root(): m.root} {
		if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	m.store = nixtest.Current(t).OpenStore(t, m.root)
	for name, value := range envMap(m.store.Env()) {
		t.Setenv(name, value)
	}
	m.setClock(start)

	activate, err := filepath.Abs("testdata/activate")
	must(t, err)
	m.Config = Defaults()
	m.Config.Name = "host-1"
	m.Config.System = "x86_64-linux"
	m.Config.StateDir = m.file("state")
	m.Config.GCRoots = m.file("nix/var/nix/gcroots/nixos-closure")
	m.Config.Profile = m.file(profileLink)
	m.Config.Running = m.file("run/current-system")
	m.Config.Booted = m.file("run/booted-system")
	m.Config.Boot = []string{m.file("boot")}
	m.Config.Activate = []string{"/bin/sh", activate, m.root}
	m.Config.RebootCommand = []string{"/bin/sh", activate, m.root, "", "reboot"}
	m.Config.Units = unitsProcess
	m.Config.KeepFree = 1
	m.Config.Health.Required = []Check{{
		Name:    "web",
		Command: []string{"/bin/sh", "-c", `test ! -e "$0$(readlink "$0/run/current-system")/sick"`, m.root},
	}}
	must(t, m.Config.check())
	m.put("a")
	t.Cleanup(m.endUnits)
	return m
}

func (m *machine) file(name string) string { return filepath.Join(m.root, name) }

func (m *machine) setClock(now time.Time) {
	m.t.Helper()
	must(m.t, os.WriteFile(m.file("now"), []byte(strconv.FormatInt(now.Unix(), 10)), 0o644))
}

func (m *machine) advance(d time.Duration) { m.setClock(m.now().Add(d)) }

func (m *machine) now() time.Time {
	now, err := clockOf(m.root)
	must(m.t, err)
	return now
}

func clockOf(root string) (time.Time, error) {
	text, err := os.ReadFile(filepath.Join(root, "now"))
	if err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseInt(string(text), 10, 64)
	return time.Unix(seconds, 0), err
}

// pointerAt is web-1 in a cache, for readers and, with a key, for writers.
func pointerAt(store blob.Store, public nix.PublicKey, now func() time.Time, keys ...nix.SecretKey) *pointer.Pointer {
	return pointer.New(store, pointer.Config{Name: "web-1", PublicKeys: nix.Keys{public}, RequireSigs: true, SigningKeys: keys, Now: now})
}

// put makes a system the newest generation of web-1, as changed.
func (m *machine) put(name string, changes ...func(*pointer.Proposal)) pointer.Generation {
	m.t.Helper()
	path, ok := m.lab.systems[name]
	if !ok {
		m.t.Fatalf("there is no system %s", name)
	}
	proposal := pointer.Proposal{Path: path, System: "x86_64-linux", NarHash: m.lab.infos[name].NarHash}
	for _, change := range changes {
		change(&proposal)
	}
	p := pointerAt(blob.NewDirectory(m.cache), m.lab.key.Public(), m.now, m.lab.key)
	outcome, err := p.Append(m.t.Context(), proposal)
	must(m.t, err)
	return outcome.Generation
}

// An agent is what a run is made of, in this process or another one.
type agent struct {
	Root, Cache string
	Key         string
	Config      Config
	Request     Request
	Kill        int    // the number of the step after which it is killed, or 0
	KillAfter   string // or the name of it
	Stop        bool   // it is stopped there instead, and hangs
}

const agentCommand = "agent"

func (m *machine) agent() agent {
	return agent{Root: m.root, Cache: m.cache, Key: m.lab.key.Public().String(), Config: m.Config, Request: m.Request}
}

// host opens what the agent is made of.
func (a agent) host(log func(string, ...any)) (*Host, error) {
	key, err := nix.ParsePublicKey(a.Key)
	if err != nil {
		return nil, err
	}
	store := blob.NewDirectory(a.Cache)
	p := pointerAt(store, key, nil)
	step := 0
	return &Host{
		Config:  a.Config,
		Pointer: p,
		Reports: store,
		Cache:   cache.New(store, cache.Config{RequireSigs: true, PublicKeys: nix.Keys{key}}),
		Reach: func(ctx context.Context) error {
			for _, reason := range []string{"cut-off", "outage"} {
				if _, err := os.Stat(filepath.Join(a.Root, reason)); err == nil {
					return errors.New(reason)
				}
			}
			_, err := p.Read(ctx)
			return err
		},
		Log: log,
		Now: func() time.Time {
			now, err := clockOf(a.Root)
			if err != nil {
				panic(err)
			}
			return now
		},
		Sleep: func(context.Context, time.Duration) error { return nil },
		Pause: func(context.Context, time.Duration) error { return errors.New("one try will do") },
		Boot: func() (string, error) {
			id, err := os.ReadFile(filepath.Join(a.Root, "boot-id"))
			return string(id), err
		},
		Changed: func(name string) {
			if step++; step == a.Kill || name == a.KillAfter {
				signal := syscall.SIGKILL
				if a.Stop {
					signal = syscall.SIGSTOP
				}
				fmt.Fprintf(os.Stderr, "%v after step %d: %s\n", signal, step, name)
				syscall.Kill(os.Getpid(), signal)
			}
		},
	}, nil
}

// agentMain makes a run as one process, which leaves its outcome in a file.
func agentMain(description string) error {
	var a agent
	if err := json.Unmarshal([]byte(description), &a); err != nil {
		return err
	}
	h, err := a.host(func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) })
	if err != nil {
		return err
	}
	outcome, err := h.Follow(context.Background(), a.Request)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(outcome)
}

// follow makes a run in this process.
func (m *machine) follow() Outcome {
	m.t.Helper()
	outcome, err := m.tryFollow()
	must(m.t, err)
	return outcome
}

func (m *machine) tryFollow() (Outcome, error) {
	h, err := m.agent().host(m.t.Logf)
	must(m.t, err)
	return h.Follow(m.t.Context(), m.Request)
}

// followKilled makes a run in a process of its own that is killed after a step.
// It says whether it was, and after which: a run may have fewer steps.
func (m *machine) followKilled(step int) (name string, killed bool) {
	m.t.Helper()
	a := m.agent()
	a.Kill = step
	return m.runAgent(a)
}

// runAgent makes a run in a process of its own, and says whether that was killed.
func (m *machine) runAgent(a agent) (said string, killed bool) {
	m.t.Helper()
	description, err := json.Marshal(a)
	must(m.t, err)
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*time.Minute) // of one that hangs
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], agentCommand, string(description))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Run()
	must(m.t, ctx.Err())
	m.t.Logf("a run of its own: %v\n%s", err, stderr.Bytes())
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		if status := exit.Sys().(syscall.WaitStatus); status.Signaled() && status.Signal() == syscall.SIGKILL {
			return lines[len(lines)-1], true
		}
	}
	must(m.t, err)
	return lines[len(lines)-1], false
}

// endUnits ends all that outlives a run.
func (m *machine) endUnits() {
	u := &processUnits{dir: filepath.Join(m.Config.StateDir, "units")}
	for _, name := range []string{activationUnit, deadlineUnit} {
		if err := u.End(context.Background(), name); err != nil {
			m.t.Error(err)
		}
	}
}

// cutPower ends everything, and boots the machine again, by default.
func (m *machine) cutPower() {
	m.t.Helper()
	m.endUnits()
	target, err := os.Readlink(m.file("boot/default"))
	must(m.t, err)
	for _, link := range []string{"run/current-system", "run/booted-system"} {
		must(m.t, os.Remove(m.file(link)))
		must(m.t, os.Symlink(target, m.file(link)))
	}
	id, err := os.ReadFile(m.file("boot-id"))
	must(m.t, err)
	must(m.t, os.WriteFile(m.file("boot-id"), append(id, '+'), 0o644))
	if err := os.Remove(m.file("cut-off")); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
}

// name is the system that a link leads to.
func (m *machine) name(link string) string {
	m.t.Helper()
	path, err := storePathOf(m.file(link))
	must(m.t, err)
	name, ok := m.names[path]
	if !ok {
		m.t.Fatalf("%s leads to %s", link, path)
	}
	return name
}

// is checks what runs, what the profile has, and what would be booted.
func (m *machine) is(running, profile, boots string) {
	m.t.Helper()
	want := fmt.Sprintf("%s runs, the profile has %s, %s is booted", running, profile, boots)
	got := fmt.Sprintf("%s runs, the profile has %s, %s is booted", m.name("run/current-system"), m.name(profileLink), m.name("boot/default"))
	if got != want {
		m.t.Errorf("want: %s\ngot:  %s", want, got)
	}
}

// comesTo makes a run that has to come to a result.
func (m *machine) comesTo(want Result) Outcome {
	m.t.Helper()
	outcome := m.follow()
	if outcome.Result != want {
		m.t.Errorf("want %s, got %s: %s", want, outcome.Result, outcome.Sentence)
	}
	return outcome
}

// log is what was activated.
func (m *machine) log() string {
	data, err := os.ReadFile(m.file("log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// activations are those since the last call.
func (m *machine) activations() string {
	m.t.Helper()
	data, err := os.ReadFile(m.file("log"))
	must(m.t, err)
	must(m.t, os.WriteFile(m.file("log"), nil, 0o644))
	return strings.ReplaceAll(strings.TrimSpace(string(data)), "\n", ", ")
}
