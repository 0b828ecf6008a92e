package ci_test

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A task is run as Concourse would: in a directory with its inputs and outputs,
// and with its params in the environment. What is around it is this machine.
type task struct {
	dir    string            // where it runs
	params map[string]string // others than the task's own
	env    []string          // of the image
	root   string            // of the image, if it isn't this machine's
}

// newTask lays out the outputs of a task, and this repository as its input tasks.
func newTask(t *testing.T, params map[string]string) *task {
	t.Helper()
	dir := t.TempDir()
	repository, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(repository, filepath.Join(dir, "tasks")); err != nil {
		t.Fatal(err)
	}
	return &task{dir: dir, params: params, env: []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}}
}

// run runs the task of that name, and returns what it printed.
func (k *task) run(t *testing.T, name string) (string, error) {
	t.Helper()
	config, err := concourse.ParseTask(read(t, "tasks/"+name+".yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, output := range config.Outputs {
		if err := os.RemoveAll(k.path(output.Name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(k.path(output.Name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command := append([]string{config.Run.Path}, config.Run.Args...)
	if script, ok := strings.CutPrefix(config.Run.Path, "repository/"); ok {
		command[0] = "tasks/" + script // the same files
	}
	if k.root == "" {
		k.forbid(t)
	} else {
		command = append(concourse.Container(k.root, k.dir), command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = k.dir
	cmd.Env = k.env
	params := map[string]string{}
	for name, value := range config.Params {
		params[name], _ = value.(string)
	}
	maps.Copy(params, k.params)
	for name, value := range params {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	t.Logf("%s:\n%s", name, out)
	return string(out), err
}

// useImage makes a closure in a store below root the task's image, as a get with
// format: rootfs does.
func (k *task) useImage(t *testing.T, root string, closure nix.StorePath) {
	t.Helper()
	if out, err := exec.Command(concourse.Unshare()[0], append(concourse.Unshare()[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("this machine gives us no namespaces to make a container in: %v\n%s", err, out)
	}
	k.root, k.env = root, []string{"PATH=/closure/bin"}
	if err := os.Remove(k.path("tasks")); err != nil { // a symlink, which leads nowhere in there
		t.Fatal(err)
	}
	if err := os.CopyFS(k.path("tasks/ci/tasks"), os.DirFS("tasks")); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"closure": closure.String(), "bin/sh": "/closure/bin/sh"} {
		err := os.MkdirAll(filepath.Dir(filepath.Join(root, link)), 0o755)
		if err == nil {
			err = os.Symlink(target, filepath.Join(root, link))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// forbid takes away those programs that the image doesn't have, though any other
// machine would.
func (k *task) forbid(t *testing.T) {
	t.Helper()
	for _, program := range []string{"awk", "jq", "perl", "python3", "sed"} {
		k.write(t, "absent/"+program, "#!/bin/sh\necho $0: not in the image >&2; exit 127\n", 0o755)
	}
	for i, v := range k.env {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			k.env[i] = "PATH=" + k.path("absent") + ":" + strings.TrimPrefix(path, k.path("absent")+":")
		}
	}
}

func (k *task) path(name string) string { return filepath.Join(k.dir, name) }

func (k *task) write(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(k.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.path(name), []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// git runs git as somebody, and returns what it printed.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=somebody", "-c", "user.email=somebody@example.org"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit makes a file and commits it, in a repository that is made if need be.
func commit(t *testing.T, dir, file, content, message string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, ".git")); err != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		git(t, dir, "init", "--quiet", "--initial-branch=main")
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "add", ".")
	git(t, dir, "commit", "--quiet", "--message", message)
}

func contains(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("want %q in\n%s", w, got)
		}
	}
}

func TestReleaseNotes(t *testing.T) {
	k := newTask(t, nil)
	k.write(t, "version/version", "1.3.0", 0o644)
	commit(t, k.path("repository"), "a", "1", "Do the first thing")
	if _, err := k.run(t, "release-notes"); err != nil {
		t.Fatal(err)
	}
	contains(t, string(read(t, k.path("notes/body.md"))), "The first release:\n\n- Do the first thing\n")

	git(t, k.path("repository"), "tag", "v1.2.0")
	commit(t, k.path("repository"), "a", "2", "Do the second thing")
	commit(t, k.path("repository"), "a", "3", "Do the third thing")
	if _, err := k.run(t, "release-notes"); err != nil {
		t.Fatal(err)
	}
	body := string(read(t, k.path("notes/body.md")))
	contains(t, body, "Since v1.2.0:\n\n- Do the second thing\n- Do the third thing\n")
	if strings.Contains(body, "first") {
		t.Errorf("notes of an old release:\n%s", body)
	}
	contains(t, string(read(t, k.path("notes/name"))), "v1.3.0\n")
	contains(t, string(read(t, k.path("notes/commit"))), git(t, k.path("repository"), "rev-parse", "HEAD"))
}

// The lock file is committed with a message that says what moved, and nothing
// is committed where nothing did.
func TestUpdateLock(t *testing.T) {
	n := nixtest.Current(t)
	k := newTask(t, map[string]string{"NAME": "robot", "EMAIL": "robot@example.org"})
	k.env = n.NewStore(t).Env()
	input := t.TempDir()
	commit(t, input, "flake.nix", `{ outputs = _: { x = 1; }; }`, "One")
	commit(t, k.path("config"), "flake.nix", `{ inputs.lib.url = "git+file://`+input+`"; outputs = { self, lib }: { inherit (lib) x; }; }`, "Begin")
	git(t, k.path("config"), "checkout", "--quiet", "--detach") // as Concourse's git resource leaves it
	if _, err := k.run(t, "update-lock"); err != nil {
		t.Fatal(err)
	}
	contains(t, git(t, k.path("updated"), "log", "--max-count=1", "--format=%an %B"), "robot", "Added input 'lib'")

	git(t, k.path("config"), "pull", "--quiet", k.path("updated"), "HEAD")
	commit(t, input, "flake.nix", `{ outputs = _: { x = 2; }; }`, "Two")
	if _, err := k.run(t, "update-lock"); err != nil {
		t.Fatal(err)
	}
	contains(t, git(t, k.path("updated"), "log", "--max-count=1", "--format=%B"), "Updated input 'lib'", git(t, input, "rev-parse", "HEAD"))

	git(t, k.path("config"), "pull", "--quiet", k.path("updated"), "HEAD")
	out, err := k.run(t, "update-lock")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "all inputs are at their newest")
	if head := git(t, k.path("config"), "rev-parse", "HEAD"); git(t, k.path("updated"), "rev-parse", "HEAD") != head {
		t.Error("committed though nothing moved")
	}
}

// What is merged is what was tested, and its message says what it brings.
func TestMerge(t *testing.T) {
	k := newTask(t, map[string]string{"HOST": "web-1"})
	k.env = append(k.env, "PATH="+k.path("bin")+":"+os.Getenv("PATH"))
	k.write(t, "bin/nixos-closure", "#!/bin/sh\n"+`[ "$*" = "diff web-1 web-1-update:7" ] && echo "nginx: 1.26.2 → 1.26.3, +12.4 KiB"`, 0o755)
	for file, line := range map[string]string{
		"path": "/nix/store/0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c-system", "pointer": "web-1-update", "generation": "7",
		"changes.txt": "Nothing is different from last night.",
	} {
		k.write(t, "candidate/"+file, line+"\n", 0o644)
	}
	config, update := k.path("config"), k.path("update")
	commit(t, config, "flake.lock", "1", "Begin")
	git(t, k.dir, "clone", "--quiet", config, update)
	git(t, config, "checkout", "--quiet", "--detach") // as Concourse's git resource leaves it
	commit(t, update, "flake.lock", "2", "flake.lock: Update\n\nUpdated input 'nixpkgs'")

	if _, err := k.run(t, "merge"); err != nil {
		t.Fatal(err)
	}
	merged := k.path("merged")
	contains(t, git(t, merged, "log", "--max-count=1", "--format=%P %B"),
		git(t, config, "rev-parse", "HEAD")+" "+git(t, update, "rev-parse", "HEAD"),
		"Updated input 'nixpkgs'", "/nix/store/0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c-system", "nginx: 1.26.2 → 1.26.3")
	if got, want := git(t, merged, "rev-parse", "HEAD^{tree}"), git(t, update, "rev-parse", "HEAD^{tree}"); got != want {
		t.Error("what was merged is not what was tested")
	}

	// For the first time.
	k.write(t, "bin/nixos-closure", "#!/bin/sh\nexit 1\n", 0o755)
	if _, err := k.run(t, "merge"); err != nil {
		t.Fatal(err)
	}
	contains(t, git(t, merged, "log", "--max-count=1", "--format=%B"), "Nothing is different from last night.")

	// Again, when it is in.
	git(t, config, "pull", "--quiet", merged, "HEAD")
	out, err := k.run(t, "merge")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "nothing to merge")
	if got, want := git(t, merged, "rev-parse", "HEAD"), git(t, config, "rev-parse", "HEAD"); got != want {
		t.Errorf("merged %s again to %s", want, got)
	}

	// Somebody has done the same by hand.
	git(t, config, "checkout", "--quiet", "--detach", "HEAD^1")
	commit(t, config, "flake.lock", "2", "Update by hand")
	if _, err := k.run(t, "merge"); err != nil {
		t.Fatal(err)
	}

	// Whoever commits something else, before the update was merged or after it, or
	// takes it back, has something that wasn't tested. The candidate isn't it.
	refuses := func(what, commit string) {
		t.Helper()
		out, err := k.run(t, "merge")
		if err == nil {
			t.Errorf("%s: merged what nobody had tested", what)
		}
		contains(t, out, commit, "hint: ")
		if _, err := os.Stat(filepath.Join(k.path("merged"), ".git")); err == nil && git(t, merged, "rev-parse", "HEAD") != git(t, config, "rev-parse", "HEAD") {
			t.Errorf("%s: there is something to push", what)
		}
	}
	git(t, config, "checkout", "--quiet", "--detach", "HEAD^1")
	commit(t, config, "hosts.nix", "1", "Add a host")
	refuses("before", "Add a host")
	git(t, config, "checkout", "--quiet", "--detach", git(t, update, "rev-parse", "HEAD"))
	commit(t, config, "hosts.nix", "1", "Add another host")
	refuses("after", "Add another host")
	git(t, config, "checkout", "--quiet", "--detach", git(t, update, "rev-parse", "HEAD"))
	git(t, config, "revert", "--no-edit", "HEAD")
	refuses("taken back", "Revert")
}

// A host, as far as ssh and Salt know: a store of its own at /nix, and a root of
// its own.
type host struct {
	root  string
	store *nixtest.Store
}

// newHost makes a host that trusts a key, and a program that runs the script in
// its argument there.
func newHost(t *testing.T, n *nixtest.Nix, trusted string) (*host, string) {
	t.Helper()
	root := filepath.Join(nixtest.TempDir(t), "root")
	store := n.OpenStore(t, root)
	store.Configure(t, "sandbox = false\ntrusted-public-keys = "+trusted)
	if err := os.MkdirAll(filepath.Join(root, "nix"), 0o755); err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("host")
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nset -eu\nexport " + strings.Join(quoted(store.Env()), " ") + " NIX_REMOTE=local\nexec " + here + " " + root + ` sh -c "$1"` + "\n"
	program := filepath.Join(t.TempDir(), "on-host")
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program, "nix-store --version").CombinedOutput(); err != nil {
		t.Skipf("this machine gives us no namespaces to make a host in: %v\n%s", err, out)
	}
	return &host{root, store}, program
}

// current is what the host runs.
func (h *host) current(t *testing.T) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join(h.root, "run/current-system"))
	if err != nil {
		return ""
	}
	return target
}

func quoted(env []string) []string {
	for i, v := range env {
		name, value, _ := strings.Cut(v, "=")
		env[i] = name + "='" + value + "'"
	}
	return env
}

// deployment is a closure in a signed cache, as a get leaves it.
func deployment(t *testing.T, n *nixtest.Nix, k *task) (nix.StorePath, nixtest.Key) {
	t.Helper()
	store, key := n.NewStore(t), nixtest.NewKey(t, "cache.example.org-1")
	system := store.Build(t, filepath.Join(nixtest.Sample(t), "config"), "web-1")
	k.write(t, "key", key.Secret, 0o600)
	store.Run(t, "nix", "copy", "--to", "file://"+k.path("closure/cache")+"?secret-key="+k.path("key"), system.String())
	k.write(t, "closure/path", system.String()+"\n", 0o644)
	k.write(t, "closure/generation", "12\n", 0o644)
	k.env = store.Env()
	return system, key
}

func TestDeployBySSH(t *testing.T) {
	n := nixtest.Current(t)
	k := newTask(t, map[string]string{"BY": "ssh", "HOST": "web-1", "ADDRESS": "root@web-1", "SSH_KEY": "the key", "KNOWN_HOSTS": "web-1 its key"})
	system, key := deployment(t, n, k)
	host, program := newHost(t, n, key.Public)
	// It stands in for ssh: it looks at the options as ssh would, and runs what it is asked to on the host.
	k.write(t, "bin/ssh", `#!/bin/sh
set -eu
host=
while :; do
  case $1 in
  -i) [ "$(cat "$2")" = "the key" ] && [ "$(stat -c %a "$2")" = 600 ] || exit 1; shift ;;
  -o) case $2 in UserKnownHostsFile=*) grep -q "^web-1 its key" "${2#*=}" ;; esac; shift ;;
  -oLocalCommand=*) sh -c "${1#*=}" ;; # by which Nix learns that the connection stands
  -*) ;;
  *) [ -z "$host" ] || break; host=$1 ;;
  esac
  shift
done
[ "$host" = root@web-1 ] || { echo "no such host: $host" >&2; exit 255; }
exec `+program+` "$*"
`, 0o755)
	for i, v := range k.env {
		k.env[i] = strings.Replace(v, "PATH=", "PATH="+k.path("bin")+":", 1)
	}

	if _, err := k.run(t, "deploy"); err != nil {
		t.Fatal(err)
	}
	if got := host.current(t); got != system.String() {
		t.Errorf("the host runs %q, want %s", got, system)
	}
	host.store.Run(t, "nix-store", "--verify", "--check-contents")
	if _, err := k.run(t, "deploy"); err != nil {
		t.Errorf("deploying again: %v", err)
	}

	// The host fetches it by itself, from a cache that it knows.
	other, program := newHost(t, n, key.Public)
	other.store.Configure(t, "substituters = file://"+k.path("elsewhere"))
	if err := os.Rename(k.path("closure/cache"), k.path("elsewhere")); err != nil {
		t.Fatal(err)
	}
	k.write(t, "bin/ssh", "#!/bin/sh\nfor last; do :; done\nexec "+program+` "$last"`+"\n", 0o755)
	if _, err := k.run(t, "deploy"); err != nil {
		t.Fatal(err)
	}
	if got := other.current(t); got != system.String() {
		t.Errorf("the other host runs %q, want %s", got, system)
	}

	// A host that can't be reached, and one that doesn't trust the key.
	k.write(t, "bin/ssh", "#!/bin/sh\necho 'ssh: connect: no route to host' >&2; exit 255\n", 0o755)
	if _, err := k.run(t, "deploy"); err == nil {
		t.Error("deployed to a host that can't be reached")
	}
	stranger, program := newHost(t, n, nixtest.NewKey(t, "cache.example.org-1").Public)
	stranger.store.Configure(t, "substituters = file://"+k.path("elsewhere"))
	k.write(t, "bin/ssh", "#!/bin/sh\nfor last; do :; done\nexec "+program+` "$last"`+"\n", 0o755)
	if _, err := k.run(t, "deploy"); err == nil || stranger.current(t) != "" {
		t.Error("deployed to a host that doesn't trust the cache")
	}
}

func TestDeployBySalt(t *testing.T) {
	n := nixtest.Current(t)
	k := newTask(t, nil)
	system, key := deployment(t, n, k)
	host, program := newHost(t, n, key.Public)
	host.store.Configure(t, "substituters = file://"+k.path("closure/cache"))
	answer := func(retcode string) string {
		return `{"return": [{"web-1": {"pid": 12, "retcode": ` + retcode + `, "stdout": "…", "stderr": ""}}]}`
	}
	// It stands in for salt-api with rest_cherrypy, and for the minion.
	var mu sync.Mutex // the other process in between is no order that the race detector sees
	var asked, response string
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/run" || r.FormValue("username") != "ci" || r.FormValue("password") != `p"w` || r.FormValue("tgt") != "web-1" || r.FormValue("fun") != "cmd.run_all" {
			http.Error(w, "401 Unauthorized", http.StatusUnauthorized)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		asked = r.FormValue("arg")
		if response == "" {
			out, err := exec.Command(program, asked).CombinedOutput()
			t.Logf("on the host: %s (%v)", out, err)
			if err != nil {
				response = answer("1")
			} else {
				response = answer("0")
			}
		}
		io.Copy(w, bytes.NewBufferString(response))
	}))
	defer api.Close()
	k.params = map[string]string{"BY": "salt", "HOST": "web-1", "SALT_API": api.URL, "SALT_LOGIN": `username=ci&password=p%22w&eauth=pam`}

	if _, err := k.run(t, "deploy"); err != nil {
		t.Fatal(err)
	}
	if got := host.current(t); got != system.String() {
		mu.Lock()
		t.Errorf("the host runs %q, want %s, having been asked to\n%s", got, system, asked)
		mu.Unlock()
	}
	for _, test := range []struct{ response, want string }{
		{answer("4"), "web-1 did not switch"},
		{`{"return": [{}]}`, "web-1 did not answer"},
		{`{"return": [{"web-1": false}]}`, "web-1 did not answer"},
	} {
		mu.Lock()
		response = test.response
		mu.Unlock()
		out, err := k.run(t, "deploy")
		if err == nil {
			t.Errorf("deployed, says the task, where Salt says %s", test.response)
		}
		contains(t, out, test.want, "hint: ")
	}
	k.params["SALT_LOGIN"] = "username=ci&password=wrong"
	if _, err := k.run(t, "deploy"); err == nil {
		t.Error("deployed with a wrong password")
	}
}

func TestDeployNothing(t *testing.T) {
	k := newTask(t, map[string]string{"BY": "pull", "HOST": "web-1"})
	k.write(t, "closure/path", "/nix/store/0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c-system\n", 0o644)
	k.write(t, "closure/generation", "12\n", 0o644)
	out, err := k.run(t, "deploy")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "web-1", "12", "0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c-system")
	k.params["BY"] = "magic"
	if _, err := k.run(t, "deploy"); err == nil {
		t.Error("deployed by magic")
	}
}

// The driver of a VM test runs in a root that holds nothing but its closure. (It
// boots no machine here: that of TestBoot, in ci/rehearsal, does.)
func TestNixosTest(t *testing.T) {
	n := nixtest.Current(t)
	store, sources := n.NewStore(t), nixtest.Sample(t)
	file := filepath.Join(sources, "config", "driver.nix")
	if err := os.WriteFile(file, []byte(`
let
  inherit (import ./lib.nix) build busybox;
  driver = name: candidate: build name { inherit candidate; } ''
    mkdir -p $out/bin
    for program in chmod ls mknod rm sh sleep tee timeout; do ln -s $busybox/busybox $out/bin/$program; done
    cat > $out/bin/nixos-test-driver <<EOF
    #!$busybox/busybox sh
    [ "\$1" = --output-directory ] || exit 2
    echo "machine: booted $candidate" | tee "\$2/machine.log"
    . /behaviour
    EOF
    chmod +x $out/bin/nixos-test-driver
  '';
in {
  driver = driver "nixos-test-driver-web-1" (import ./default.nix).web-1;
  stranger = driver "nixos-test-driver-web-2" (import ./default.nix).web-2;
}
`), 0o644); err != nil {
		t.Fatal(err)
	}
	candidate := store.Build(t, filepath.Join(sources, "config"), "web-1")
	for _, test := range []struct {
		name, driver, behaviour string
		passes                  bool
		want                    string
	}{
		{"green", "driver", "exit 0", true, "machine: booted " + candidate.String()},
		{"red", "driver", "echo 'machine: timed out waiting for unit nginx'; exit 1", false, "timed out waiting for unit nginx"},
		{"hung", "driver", "exec sleep 60", false, "error: the test ran longer than 3 seconds"},
		{"of another system", "stranger", "exit 0", false, "error: " + candidate.String() + " is not in the closure of its test"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newTask(t, map[string]string{"TIMEOUT": "1", "SLOWDOWN": "3"})
			k.write(t, "candidate/path", candidate.String()+"\n", 0o644)
			driver := store.Build(t, file, test.driver)
			root := nixtest.TempDir(t)
			n.OpenStore(t, root)
			store.Run(t, "nix", "copy", "--no-check-sigs", "--to", root, driver.String())
			k.useImage(t, root, driver)
			if err := os.WriteFile(filepath.Join(root, "behaviour"), []byte(test.behaviour), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := k.run(t, "nixos-test")
			if (err == nil) != test.passes {
				t.Errorf("want a test that passes: %v, got %v", test.passes, err)
			}
			contains(t, out, test.want)
			if test.driver == "driver" {
				contains(t, out, "without KVM") // which nobody can have who may not make a device
				contains(t, string(read(t, k.path("test-output/machine.log"))), "booted")
			}
		})
	}
}

// Each host of a flake is built and pushed, and the next build, in a new
// container, builds only what changed.
func TestBuild(t *testing.T) {
	n := nixtest.Current(t)
	key := nixtest.NewKey(t, "cache.example.org-1")
	k := newTask(t, map[string]string{"NIXOS_CLOSURE_SIGNING_KEY": key.Secret})
	k.params["NIXOS_CLOSURE_CACHE"] = "file://" + k.path("cache")
	program := filepath.Join(t.TempDir(), "nixos-closure")
	if err := nixtest.BuildPrograms(program, "", "../cmd/nixos-closure"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(nixtest.Sample(t), "config"), k.path("config")); err != nil {
		t.Fatal(err)
	}
	commit(t, k.path("config"), "flake.nix", `{
  outputs = _: {
    nixosConfigurations = builtins.mapAttrs (name: toplevel: { config.system.build = { inherit toplevel; }; }) (import ./default.nix // {
      broken = (import ./edge-cases.nix).failing;
    });
  };
}`, "Begin")
	newContainer := func() {
		k.env = n.NewStore(t).Env()
		for i, v := range k.env {
			k.env[i] = strings.Replace(v, "PATH=", "PATH="+filepath.Dir(program)+":", 1)
		}
	}

	newContainer()
	out, err := k.run(t, "build")
	if err == nil {
		t.Error("the task is green, though a host failed")
	}
	contains(t, out, "building '/nix/store/")
	if !strings.HasSuffix(out, "error: failed: 1 of 3 hosts: broken\n") {
		t.Errorf("the host that failed isn't named at the end:\n%s", out)
	}
	for _, host := range []string{"web-1", "web-2"} {
		path := string(read(t, k.path("paths/"+host)))
		contains(t, path, "-nixos-system-"+host+"-25.05\n")
		contains(t, string(read(t, k.path("cache/pointers/"+host+"-built"))), path)
	}
	if _, err := os.Stat(k.path("paths/broken")); err == nil {
		t.Error("a host that failed has a path")
	}

	commit(t, k.path("config"), "motd", "The second day.\n", "Say which day it is")
	newContainer()
	k.params["HOSTS"] = "web-1"
	if out, err = k.run(t, "build"); err != nil {
		t.Fatal(err)
	}
	built := regexp.MustCompile(`building '/nix/store/[^-]*-(.*)\.drv'`).FindAllStringSubmatch(out, -1)
	var names []string
	for _, b := range built {
		names = append(names, b[1])
	}
	if diff := cmp.Diff([]string{"etc", "nixos-system-web-1-25.05"}, names); diff != "" {
		t.Errorf("built for a change of motd (-want +got)\n%s", diff)
	}
	if _, err := os.Stat(k.path("paths/web-2")); err == nil {
		t.Error("built a host that wasn't asked for")
	}
}
