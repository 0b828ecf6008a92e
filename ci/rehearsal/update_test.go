package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// auto-update.yml, played for some nights with all of it real but Concourse and
// the machine that the test would boot: a green update is merged with what it
// changes, and the closure that was tested is the one that ships; a red one
// leaves main and the host alone, and says why; what nobody has tested together
// isn't merged.
func TestAutoUpdate(t *testing.T) {
	n := newNights(t)

	said := n.night()
	if n.red() != "" {
		t.Fatalf("the first night is red:\n%s", said)
	}
	first := n.host()
	if first == "" || first != n.candidate() {
		t.Errorf("the host is to run %q, and what was tested is %s", first, n.candidate())
	}
	begin := n.main()

	// What hosts are made of breaks.
	n.upstream("Update nginx", "s/nginx-1.28.0/nginx-1.29.0/; s/It works/It is broken/")
	said = n.night()
	if n.red() != "test" {
		t.Errorf("an update that breaks the host: %q is red, want test", n.red())
	}
	for _, why := range []string{"Updated input 'nixpkgs'", "nginx: 1.28.0 → 1.29.0", "the page should say that it works"} {
		if !strings.Contains(said, why) {
			t.Errorf("nobody says %q:\n%s", why, said)
		}
	}
	if n.main() != begin || n.host() != first {
		t.Error("a red update has moved main or the host")
	}

	// And is mended.
	n.upstream("Mend nginx", "s/nginx-1.29.0/nginx-1.29.1/; s/It is broken/It works again/")
	if said = n.night(); n.red() != "" {
		t.Fatalf("an update that works is red:\n%s", said)
	}
	message := n.git("config", "log", "--max-count=1", "--format=%B", "main")
	for _, what := range []string{"Updated input 'nixpkgs'", n.candidate(), "nginx: 1.28.0 → 1.29.1"} {
		if !strings.Contains(message, what) {
			t.Errorf("the merge doesn't say %q:\n%s", what, message)
		}
	}
	if n.git("config", "rev-parse", "main^{tree}") != n.git("config", "rev-parse", "update-lock^{tree}") {
		t.Error("main is not what was tested")
	}
	if n.host() != n.candidate() || n.host() == first {
		t.Errorf("the host is to run %s, and what was tested is %s", n.host(), n.candidate())
	}

	// Somebody commits to main while an update is being tested.
	second := n.host()
	n.upstream("Update nginx again", "s/nginx-1.29.1/nginx-1.29.2/")
	n.whileTesting = func() { n.commit("config", "README", "How we run our hosts.\n", "Explain") }
	said = n.night()
	if n.red() != "merge" || !strings.Contains(said, "was not tested with") || n.host() != second {
		t.Errorf("%q is red, and the host is to run %s:\n%s", n.red(), n.host(), said)
	}
	if got := n.git("config", "log", "--max-count=1", "--format=%s", "main"); got != "Explain" {
		t.Errorf("main ends with %q", got)
	}
	// The next night has both.
	if said = n.night(); n.red() != "" || n.host() == second || n.host() != n.candidate() {
		t.Errorf("%q is red, and the host is to run %s:\n%s", n.red(), n.host(), said)
	}

	// What moves is nothing that the host uses: the lock file is merged, and the host stays.
	third, before := n.host(), n.main()
	n.commit("nixpkgs", "unrelated", "1\n", "Add something else")
	if said = n.night(); n.red() != "" || n.host() != third || n.main() == before {
		t.Errorf("%q is red, and the host is to run %s:\n%s", n.red(), n.host(), said)
	}
}

// auto-update.yml beside gated.yml, as its head recommends: whatever people do
// while nights go on, and whoever starts a job again, the host never goes back to
// what was tested before, and a night that has nothing to do is green.
func TestAutoUpdateBesideGated(t *testing.T) {
	n := newNights(t)
	nightly := n.engine
	gated := n.pipeline("ci/examples/gated.yml")
	night := func() string { n.engine = nightly; return n.night() }
	ship := func() {
		t.Helper()
		n.engine = gated
		before := len(gated.Builds)
		n.must(n.play(t.Context()))
		for _, b := range gated.Builds[before:] {
			if !b.Succeeded {
				t.Fatalf("%s of gated.yml is red:\n%s", b.Job, n.said)
			}
		}
	}
	// again starts the job of the nightly pipeline that merges and promotes again,
	// and returns what it said. The host must stay where it is.
	again := func(what string) string {
		t.Helper()
		host, main := n.host(), n.main()
		n.engine = nightly
		n.began, n.saidBefore = len(nightly.Builds), n.said.Len()
		n.must(nightly.Trigger(t.Context(), "merge"))
		if n.red() != "merge" {
			t.Errorf("%s, and merge is started again: %q is red:\n%s", what, n.red(), n.saidSince())
		}
		if n.host() != host || n.main() != main {
			t.Fatalf("%s, and merge is started again: the host is to run %s, and was to run %s", what, n.host(), host)
		}
		return n.saidSince()
	}
	says := func(said string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(said, w) {
				t.Errorf("nobody says %q:\n%s", w, said)
			}
		}
	}

	// A night's update is merged, and gated.yml finds it done.
	n.upstream("Update nginx", "s/nginx-1.28.0/nginx-1.29.1/")
	n.relock("Begin with nginx 1.29.1")
	if said := night(); n.red() != "" {
		t.Fatalf("the first night is red:\n%s", said)
	}
	ship()
	first := n.host()
	if first != n.candidate() || first != n.pointer("web-1-candidate") {
		t.Errorf("the host is to run %s, and the candidates are %s and %s", first, n.candidate(), n.pointer("web-1-candidate"))
	}

	// Somebody is newer by day. Last night's update is part of main, and no news.
	n.upstream("Update nginx", "s/nginx-1.29.1/nginx-1.30.0/")
	n.relock("Take the newest nginx at once")
	ship()
	if n.host() == first || n.host() != n.pointer("web-1-candidate") {
		t.Fatalf("the host is to run %s, and what was shipped is %s", n.host(), n.pointer("web-1-candidate"))
	}
	says(again("somebody was newer by day"), "Take the newest nginx at once", "hint: nothing was merged")

	// Nor does it depend on the task: one that sees nothing wrong leaves it to the put.
	n.careless = true
	says(again("the task sees nothing wrong"), "web-1 in file:///srv/cache stays where it is: generation 2 (promoted from generation 2 of web-1-candidate) was made at")
	n.careless = false

	// A night without news, when somebody is newer while it is tested.
	n.whileTesting = func() {
		n.nextSecond()
		n.upstream("Update nginx", "s/nginx-1.30.0/nginx-1.30.1/")
		n.relock("Take the newest nginx by night")
		ship()
		n.engine = nightly
	}
	said := night()
	if n.red() != "merge" || n.host() != n.pointer("web-1-candidate") || n.host() == n.candidate() {
		t.Errorf("%q is red, the host is to run %s, and the night has tested %s:\n%s", n.red(), n.host(), n.candidate(), said)
	}
	says(said, "Take the newest nginx by night")
	n.careless = true
	says(again("a night without news was overtaken, and the task sees nothing wrong"), "stays where it is: generation 3 (promoted from generation 3 of web-1-candidate) was made at")
	n.careless = false

	// Nights without news are green: the first one tests what main is, and moves
	// nothing; the others have nothing to do.
	host := n.host()
	for i, want := range []string{"update build test merge", "update", "update"} {
		said := night()
		var jobs []string
		for _, b := range nightly.Builds[n.began:] {
			jobs = append(jobs, b.Job)
		}
		if got := strings.Join(jobs, " "); got != want || n.red() != "" || n.host() != host {
			t.Errorf("night %d without news: %s were built, want %s; %q is red, and the host is to run %s:\n%s", i+1, got, want, n.red(), n.host(), said)
		}
	}

	// Somebody goes back. What was tested before doesn't undo that, whoever starts it
	// again, nor does a night without news; the next update does.
	n.nextSecond()
	n.must(n.goBack(t.Context()))
	back := n.host()
	if back == host {
		t.Fatal("it hasn't gone back")
	}
	says(again("somebody went back"), `(back to generation 2: slow for users of old browsers) was made at`)
	if night(); n.red() != "" || n.host() != back {
		t.Errorf("a night without news after a rollback: %q is red, and the host is to run %s", n.red(), n.host())
	}
	n.nextSecond()
	n.upstream("Update nginx", "s/nginx-1.30.1/nginx-1.30.2/")
	if said := night(); n.red() != "" || n.host() != n.candidate() || n.host() == back {
		t.Errorf("%q is red, and the host is to run %s:\n%s", n.red(), n.host(), said)
	}
}

// Nights are those of a config whose flake has one input, nixpkgs, which is the
// sample.
type nights struct {
	*rehearsal
	t            *testing.T
	said         *bytes.Buffer
	saidBefore   int // bytes, when the night began
	count        int
	began        int // the number of builds by then
	whileTesting func()
	careless     bool // the task that merges doesn't look
}

func newNights(t *testing.T) *nights {
	if out, err := exec.Command(concourse.Unshare()[0], append(concourse.Unshare()[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("this machine gives us no namespaces to run tasks in: %v\n%s", err, out)
	}
	store := nixtest.Current(t).NewStore(t)
	for _, v := range store.Env() {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			t.Setenv("PATH", path)
		}
	}
	programs := t.TempDir()
	if err := nixtest.BuildPrograms(programs+"/", "", "../../cmd/..."); err != nil {
		t.Fatal(err)
	}
	t.Chdir("../..")
	said := new(bytes.Buffer)
	n := &nights{rehearsal: newRehearsal(said), t: t, said: said}
	n.programs, n.dir = programs, t.TempDir()
	t.Cleanup(n.remove)
	n.must(n.prepare(t.Context()))
	// What prepare has laid out as the config is what the config is made of here.
	n.must(os.Rename(n.path("config"), n.path("nixpkgs")))
	n.git("nixpkgs", "rm", "--quiet", "flake.nix")
	n.git("nixpkgs", "commit", "--quiet", "--message", "Be no flake")
	n.commit("config", "flake.nix", `{
  inputs.nixpkgs = { url = "git+file://`+n.path("nixpkgs")+`"; flake = false; };
  outputs = { self, nixpkgs }: {
    nixosConfigurations.web-1.config.system.build.toplevel = (import nixpkgs).web-1;
    checks.x86_64-linux.web-1.driver = import (nixpkgs + "/driver.nix");
  };
}
`, "Begin")
	n.git("config", "config", "receive.denyCurrentBranch", "updateInstead")
	n.relock("Lock")
	n.engine = n.pipeline("ci/examples/auto-update.yml")
	return n
}

// pipeline is a pipeline of the same repositories and the same cache.
func (n *nights) pipeline(file string) *concourse.Engine {
	n.t.Helper()
	before := n.engine
	n.must(n.set(file))
	engine := n.engine
	n.engine = before
	engine.Types["time"] = clock{n}
	engine.Types["registry-image"] = machine{}
	engine.RunTask = n.task
	engine.Dir = n.path("containers of " + filepath.Base(file))
	return engine
}

// relock is what somebody does who takes the newest inputs by hand.
func (n *nights) relock(message string) {
	n.t.Helper()
	lock := exec.Command("nix", "--extra-experimental-features", "nix-command flakes", "flake", "update", "--flake", n.path("config"))
	lock.Env = n.nix(n.t.TempDir())
	if out, err := lock.CombinedOutput(); err != nil {
		n.t.Fatalf("locking: %v\n%s", err, out)
	}
	n.git("config", "add", ".")
	n.git("config", "commit", "--quiet", "--message", message)
}

// nextSecond waits until what happens next happens in a later second than what
// has happened: that is how exactly generations tell when they were made.
func (n *nights) nextSecond() {
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
}

func (n *nights) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// night lets the pipeline do what there is to do in one night, and returns what
// was said.
func (n *nights) night() string {
	n.t.Helper()
	n.count++
	n.began, n.saidBefore = len(n.engine.Builds), n.said.Len()
	n.must(n.play(n.t.Context()))
	return n.saidSince()
}

// saidSince is what was said since the night began.
func (n *nights) saidSince() string { return n.said.String()[n.saidBefore:] }

// red is the job that was red this night.
func (n *nights) red() string {
	for _, b := range n.engine.Builds[n.began:] {
		if !b.Succeeded {
			return b.Job
		}
	}
	return ""
}

func (n *nights) pointer(name string) string {
	data, _ := os.ReadFile(n.path("cache/pointers/" + name))
	return strings.TrimSpace(string(data))
}

func (n *nights) host() string      { return n.pointer("web-1") }
func (n *nights) candidate() string { return n.pointer("web-1-update") }
func (n *nights) main() string      { return n.git("config", "rev-parse", "main") }

func (n *nights) git(repository string, args ...string) string {
	n.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", n.path(repository), "-c", "user.name=somebody", "-c", "user.email=somebody@example.org"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		n.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (n *nights) commit(repository, file, content, message string) {
	n.t.Helper()
	dir := n.path(repository)
	if _, err := os.Stat(dir); err != nil {
		n.must(os.Mkdir(dir, 0o755))
		n.git(repository, "init", "--quiet", "--initial-branch=main")
	}
	n.must(os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644))
	n.git(repository, "add", ".")
	n.git(repository, "commit", "--quiet", "--message", message)
}

// upstream changes what hosts are made of.
func (n *nights) upstream(message, edit string) {
	n.t.Helper()
	n.must(n.run(n.t.Context(), n.path("nixpkgs"), "sed", "-i", edit, "default.nix"))
	n.git("nixpkgs", "commit", "--quiet", "--all", "--message", message)
}

// task runs those tasks whose image is ours on this machine, with an empty store.
func (n *nights) task(ctx context.Context, task *concourse.Task, params map[string]any, image, dir string) error {
	if _, err := os.Stat(filepath.Join(image, "machine")); err != nil {
		if meanwhile := n.whileTesting; meanwhile != nil {
			n.whileTesting = nil
			meanwhile()
		}
		return n.runTask(ctx, task, params, image, dir)
	}
	if n.careless && filepath.Base(task.Run.Path) == "merge.sh" {
		return n.run(ctx, dir, "git", "clone", "--quiet", "config", "merged")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, task.Run.Path), task.Run.Args...)
	cmd.Dir = dir
	cmd.Env = n.nix(n.t.TempDir())
	for i, v := range cmd.Env {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			cmd.Env[i] = "PATH=" + n.programs + ":" + path
		}
	}
	for name, value := range params {
		if value == nil {
			value = ""
		}
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%v", name, value))
	}
	return n.show(cmd)
}

// A clock is the time resource: each night is a version.
type clock struct{ *nights }

func (c clock) Check(context.Context, map[string]any, concourse.Version) ([]concourse.Version, error) {
	return []concourse.Version{{"time": strconv.Itoa(c.count)}}, nil
}

func (clock) Get(context.Context, map[string]any, concourse.Version, map[string]any, string) error {
	return nil
}

func (clock) Put(context.Context, map[string]any, map[string]any, string) (concourse.Version, error) {
	panic("nobody puts the time")
}

// A machine is an image that is this machine.
type machine struct{}

func (machine) Check(context.Context, map[string]any, concourse.Version) ([]concourse.Version, error) {
	return []concourse.Version{{"digest": "sha256:0"}}, nil
}

func (machine) Get(_ context.Context, _ map[string]any, _ concourse.Version, _ map[string]any, destination string) error {
	return os.WriteFile(filepath.Join(destination, "machine"), nil, 0o644)
}

func (machine) Put(context.Context, map[string]any, map[string]any, string) (concourse.Version, error) {
	panic("nobody puts a machine")
}
