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

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// auto-update.yml, played for some nights with all of it real but Concourse and
// the machine that the test would boot: a green update is merged with what it
// changes, and the closure that was tested is the one that ships; a red one
// leaves main and the host alone, and says why; what nobody has tested together
// isn't merged.
func TestAutoUpdate(t *testing.T) {
	if out, err := exec.Command(concourse.Unshare()[0], append(concourse.Unshare()[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("this machine gives us no namespaces to run tasks in: %v\n%s", err, out)
	}
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
	if n.red() != "merge" || !strings.Contains(said, "not tested together") || n.host() != second {
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

// Nights are those of a config whose flake has one input, nixpkgs, which is the
// sample.
type nights struct {
	*rehearsal
	t            *testing.T
	said         *bytes.Buffer
	count        int
	whileTesting func()
}

func newNights(t *testing.T) *nights {
	store := nixtest.Current(t).NewStore(t)
	for _, v := range store.Env() {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			t.Setenv("PATH", path)
		}
	}
	programs := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", programs+"/", "../../cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
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
	lock := exec.Command("nix", "--extra-experimental-features", "nix-command flakes", "flake", "lock", n.path("config"))
	lock.Env = n.nix(t.TempDir())
	if out, err := lock.CombinedOutput(); err != nil {
		t.Fatalf("locking: %v\n%s", err, out)
	}
	n.git("config", "add", ".")
	n.git("config", "commit", "--quiet", "--message", "Lock")
	n.must(n.set("ci/examples/auto-update.yml"))
	n.engine.Types["time"] = clock{n}
	n.engine.Types["registry-image"] = machine{}
	n.engine.RunTask = n.task
	return n
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
	n.engine.Builds = nil
	n.said.Reset()
	n.must(n.play(n.t.Context()))
	return n.said.String()
}

// red is the job that was red this night.
func (n *nights) red() string {
	for _, b := range n.engine.Builds {
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
		if n.whileTesting != nil {
			n.whileTesting()
			n.whileTesting = nil
		}
		return n.runTask(ctx, task, params, image, dir)
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
