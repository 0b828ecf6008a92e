package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A tally notes the requests that reach a bucket.
type tally struct {
	mu       sync.Mutex
	requests []string     // such as PUT nar/…
	before   func(string) // is called with each before it is passed on; may be nil
}

// counted is a bucket whose requests are noted.
func counted(t *testing.T) (bucket, *tally) {
	t.Helper()
	b := newBucket(t, s3test.Versitygw(t))
	behind, err := url.Parse(b.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy, noted := httputil.NewSingleHostReverseProxy(behind), &tally{}
	proxy.ErrorLog = log.New(io.Discard, "", 0) // of clients that are killed
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		noted.mu.Lock()
		request := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/"+b.name+"/")
		noted.requests = append(noted.requests, request)
		if noted.before != nil {
			noted.before(request)
		}
		noted.mu.Unlock()
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	b.endpoint = server.URL
	return b, noted
}

// take returns the requests since the last time.
func (n *tally) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	requests := n.requests
	n.requests = nil
	return requests
}

// those are the requests that a pattern matches.
func those(requests []string, pattern string) (some []string) {
	for _, r := range requests {
		if regexp.MustCompile(pattern).MatchString(r) {
			some = append(some, r)
		}
	}
	return some
}

// flake writes the flake of a rig's hosts anew.
func (r *rig) flake(t *testing.T, arguments string) {
	t.Helper()
	text := "{ outputs = _: { nixosConfigurations = import ./fleet.nix { " + arguments + " }; }; }\n"
	r.edit(t, "flake.nix", text)
}

func (r *rig) edit(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join(r.sources, "config", name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// putAll is a put of hosts of the flake, whose own pointer is web-1. It returns
// the log, too.
func (r *rig) putAll(params map[string]any) (fleetPut, string, error) {
	params["flake"] = "config"
	cmd := call("out", r.sources, r.store.Env(), map[string]any{"source": r.publisher(), "params": params})
	var log strings.Builder
	cmd.Stderr = &log
	stdout, err := cmd.Output()
	r.tookAs(cmd.Cmd)
	var p fleetPut
	if err == nil {
		err = json.Unmarshal(stdout, &p)
	}
	return p, log.String(), err
}

type fleetPut struct {
	Version  version
	Metadata []struct{ Name, Value string }
}

// row is the value of a row of the metadata.
func (p fleetPut) row(name string) string {
	for _, row := range p.Metadata {
		if row.Name == name {
			return row.Value
		}
	}
	return ""
}

// buildAll runs nixos-closure build, and returns the log.
func (r *rig) buildAll(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(programs(), "nixos-closure"), append([]string{"build", "--flake", filepath.Join(r.sources, "config")}, args...)...)
	cmd.Env = r.store.Env()
	for key, value := range r.publisher() {
		if key != "pointer" {
			cmd.Env = append(cmd.Env, fmt.Sprintf("NIXOS_CLOSURE_%s=%v", strings.ToUpper(key), value))
		}
	}
	var log strings.Builder
	cmd.Stderr = &log
	err := cmd.Run()
	r.tookAs(cmd)
	return log.String(), err
}

// tookAs adds what a program and its children took.
func (r *rig) tookAs(cmd *exec.Cmd) {
	if state := cmd.ProcessState; state != nil {
		r.took += state.UserTime() + state.SystemTime()
	}
}

// builds are the names of the derivations that a log says were built, sorted.
func builds(log string) []string {
	var names []string
	for _, match := range regexp.MustCompile(`building '/nix/store/[a-z0-9]{32}-(.*)\.drv'`).FindAllStringSubmatch(log, -1) {
		names = append(names, match[1])
	}
	slices.Sort(names)
	return names
}

func wantLog(t *testing.T, log string, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		if !regexp.MustCompile("(?m)" + pattern).MatchString(log) {
			t.Errorf("the log has nothing like %q:\n%s", pattern, log)
		}
	}
}

// Fifty hosts that share 95 % of their paths: each path is built and sent once,
// what didn't change costs next to nothing, and what fails stops nobody else.
func TestFleet(t *testing.T) {
	t.Parallel()
	const hosts = 50
	place, requests := counted(t)
	r := newRig(t, nixtest.Current(t), place)
	all := func() map[string]any { return map[string]any{"all": true} }

	// One host can't be evaluated, one can't be built, and one can't have a pointer.
	r.flake(t, fmt.Sprintf(`hosts = %d; broken = true; failing = true;`, hosts))
	_, log, err := r.putAll(all())
	if err == nil {
		t.Error("the put is green, though two hosts failed")
	}
	wantLog(t, log, "^error: failed: 2 of 52 hosts: broken, failing$", "^hint: the others are done",
		"^error: broken: .* can't be evaluated: this host can't be evaluated", "^error: failing: .*-unbuildable.drv can't be built", "^unbuildable> this can not be built$")
	first := requests.take()
	sent := those(first, "^PUT nar/")
	slices.Sort(sent)
	const shared, own = 40, 2
	if want := shared + own*hosts; len(sent) != want || len(slices.Compact(sent)) != want {
		t.Errorf("%d uploads of %d NARs, want each of the %d once", len(those(first, "^PUT nar/")), len(slices.Compact(sent)), want)
	}
	// Whether a host's closure is there is asked by us, and then by Nix of whatever it is to build.
	if asked := those(first, `^GET .*\.narinfo`); len(asked) > 2*(hosts+3) {
		t.Errorf("an empty cache was asked for %d narinfos", len(asked))
	}
	moves := those(first, `^PUT pointers/[^/]*\.json$`)
	if len(moves) != hosts || moves[len(moves)-1] != "PUT pointers/web-1.json" {
		t.Errorf("%d pointers moved, and not the source's own last: %v", len(moves), moves)
	}
	if leases, err := place.list("leases/"); err != nil || len(leases) != 0 {
		t.Errorf("leases left behind: %v %v", leases, err)
	}

	// The others are mended; nothing has changed.
	r.flake(t, fmt.Sprintf("hosts = %d;", hosts))
	put, log, err := r.putAll(all())
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	again := requests.take()
	if names := builds(log); names != nil {
		t.Errorf("built, though nothing has changed: %v", names)
	}
	if some := those(again, "nar/|^PUT|^POST|^DELETE"); some != nil {
		t.Errorf("requests for what has not changed: %v", some)
	}
	// Each pointer is read again before "it stays" is said.
	if len(again) > 5*hosts {
		t.Errorf("%d requests for %d hosts that have not changed", len(again), hosts)
	}
	if put.Version.Generation != "1" || strings.Count(put.row("unchanged"), "web-") != hosts-1 || put.row("sent") != "nothing" {
		t.Errorf("answered %+v", put)
	}

	// So does a build in a task, which writes down what a put would take.
	paths := filepath.Join(t.TempDir(), "paths")
	if log, err = r.buildAll("--all", "--paths", paths); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	again = requests.take()
	if some := those(again, "nar/|^PUT|^POST|^DELETE"); some != nil || builds(log) != nil || len(again) > 2*hosts {
		t.Errorf("%d requests, and %v, for what has not changed; built %v", len(again), some, builds(log))
	}
	for n := range hosts {
		host := fmt.Sprint("web-", n+1)
		path, err := os.ReadFile(filepath.Join(paths, host))
		pointer, readErr := place.read("pointers/" + host)
		if err != nil || readErr != nil || string(path) != string(pointer) {
			t.Fatalf("%s: the path is %q, the pointer %q (%v, %v)", host, path, pointer, err, readErr)
		}
	}

	// One host changes.
	r.edit(t, "hosts/web-7", "is different now")
	if put, log, err = r.putAll(all()); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if diff := cmp.Diff([]string{"nixos-system-web-7-25.05"}, builds(log)); diff != "" {
		t.Errorf("built for a change of web-7 (-want +got)\n%s", diff)
	}
	if sent := those(requests.take(), "^PUT nar/"); len(sent) != own {
		t.Errorf("sent %d NARs for a change of web-7, want %d", len(sent), own)
	}
	if row := put.row("web-7"); !strings.HasPrefix(row, "generation 2: ") || strings.Count(put.row("unchanged"), "web-") != hosts-2 || put.Version.Generation != "1" {
		t.Errorf("answered %+v", put)
	}

	// Something changes that all share; a task builds, and a put moves two of them.
	r.edit(t, "motd", "the next day")
	if log, err = r.buildAll("--all", "--paths", paths); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if n := len(builds(log)); n != 1+hosts {
		t.Errorf("built %d derivations, want %d", n, 1+hosts)
	}
	changed := requests.take()
	if sent := those(changed, "^PUT nar/"); len(sent) != 1+hosts {
		t.Errorf("sent %d NARs for a change of what all share, want %d", len(sent), 1+hosts)
	}
	if asked := those(changed, `^GET .*\.narinfo`); len(asked) > 3*(1+hosts) {
		t.Errorf("asked for %d narinfos, where %d paths are new", len(asked), 1+hosts)
	}
	attribute := `nixosConfigurations."web-2".config.system.build.toplevel`
	put, log, err = r.putAll(map[string]any{"pointers": map[string]any{"web-2": attribute}, "build": "never"})
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if diff := cmp.Diff([]string{"PUT pointers/web-2.json", "PUT pointers/web-1.json"}, those(requests.take(), `^PUT pointers/[^/]*\.json$|nar/`)); diff != "" {
		t.Errorf("moved (-want +got)\n%s", diff)
	}
	if put.Version.Generation != "2" || !strings.HasPrefix(put.row("web-2"), "generation 2: ") {
		t.Errorf("answered %+v", put)
	}

	// Stock Nix takes any of them from there.
	path, err := os.ReadFile(filepath.Join(paths, "web-33"))
	if err != nil {
		t.Fatal(err)
	}
	if got := realise(t, place.substituters(r.nix)[0], r.key, r.nix, strings.TrimSpace(string(path))); len(got) != shared+own {
		t.Errorf("a host has %d paths, want %d", len(got), shared+own)
	}
}

// A pointer that somebody else moves while a fleet is pushed stays where they put it
// if the put wanted another generation there. The other hosts move all the same.
func TestFleetCondition(t *testing.T) {
	t.Parallel()
	place, requests := counted(t)
	r := newRig(t, nixtest.Current(t), place)
	r.flake(t, "hosts = 2;")
	if _, log, err := r.putAll(map[string]any{"all": true}); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}

	direct := place
	direct.endpoint = place.server.URL
	other := newRig(t, r.nix, direct)
	other.key = r.key
	path := other.nextSystem(t, false)
	r.edit(t, "motd", "the next day")
	var once sync.Once
	var moved error
	requests.mu.Lock()
	requests.before = func(request string) {
		if strings.HasPrefix(request, "PUT nar/") {
			once.Do(func() { _, moved = answer[put](other.out(path)) })
		}
	}
	requests.mu.Unlock()
	_, log, err := r.putAll(map[string]any{"all": true, "if_generation": 1})
	if moved != nil {
		t.Fatal(moved)
	}
	if err == nil {
		t.Error("the put is green")
	}
	wantLog(t, log, "^error: web-1: .*moved", "^web-2 moved to generation 2: ")
	if got, err := place.read("pointers/web-1"); err != nil || string(got) != path.String()+"\n" {
		t.Errorf("web-1 leads to %q (%v), want %s", got, err, path)
	}
}

// No more evaluations run side by side than are allowed to, each in a process of
// its own: memory is theirs, whatever the number of hosts.
func TestFleetIsEvaluatedByFew(t *testing.T) {
	t.Parallel()
	r := newRig(t, nixtest.Current(t), directory(t.TempDir()))
	r.flake(t, "hosts = 7; work = 2000000;")
	stop, most := make(chan struct{}), make(chan int)
	go func() {
		highest := 0
		for {
			select {
			case <-stop:
				most <- highest
				return
			case <-time.After(5 * time.Millisecond):
				highest = max(highest, len(evaluations(filepath.Join(r.sources, "config"))))
			}
		}
	}()
	log, err := r.buildAll("--all", "--eval-workers", "3")
	close(stop)
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	wantLog(t, log, "^evaluating 7 hosts, 3 at a time$")
	if n := <-most; n != 3 {
		t.Errorf("%d evaluations ran side by side, want 3", n)
	}
}

// An evaluation that the kernel ends, as it does where memory runs out, takes
// nobody else along.
func TestFleetLosesAnEvaluation(t *testing.T) {
	t.Parallel()
	r := newRig(t, nixtest.Current(t), directory(t.TempDir()))
	r.flake(t, "hosts = 2; work = 2000000;")
	killed := make(chan error, 1)
	go func() {
		for range 10000 {
			if found := evaluations(filepath.Join(r.sources, "config")); len(found) > 0 {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(found[0])))
				killed <- syscall.Kill(pid, syscall.SIGKILL)
				return
			}
			time.Sleep(time.Millisecond)
		}
		killed <- errors.New("nothing is evaluated")
	}()
	log, err := r.buildAll("--all", "--eval-workers", "1")
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	if err == nil {
		t.Error("the build is green, though an evaluation was killed")
	}
	wantLog(t, log, "^error: web-1: .* can't be evaluated .*killed", "^hint: perhaps memory ran out: .*--eval-workers", "^error: failed: 1 of 2 hosts: web-1$", "^sent [0-9]+ paths")
}

// evaluations are the processes that evaluate hosts of a flake.
func evaluations(flake string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, _ := os.ReadFile(file)
		words := strings.Split(string(line), "\x00")
		if slices.Contains(words, "eval") && strings.Contains(string(line), flake+"#nixosConfigurations.") {
			found = append(found, file)
		}
	}
	return found
}

// A put of many hosts that is killed, at whatever it is about to write, leaves all
// pointers and the cache valid, and putting again finishes it without a second
// generation of what had moved.
func TestFleetKilled(t *testing.T) {
	t.Parallel()
	place, requests := counted(t)
	r := newRig(t, nixtest.Current(t), place)
	const hosts = 3
	for generation, at := range []string{"PUT nar/", "PUT closures/", "PUT pointers/web-[23].json", "PUT pointers/web-2$", "DELETE leases/"} {
		r.flake(t, fmt.Sprintf("hosts = %d; shared = %d;", hosts, 3+generation))
		cmd := call("out", r.sources, r.store.Env(), map[string]any{"source": r.publisher(), "params": map[string]any{"flake": "config", "all": true}})
		requests.mu.Lock()
		requests.before = func(request string) {
			if cmd.Process != nil && regexp.MustCompile("^"+at).MatchString(request) {
				cmd.Process.Kill()
			}
		}
		requests.mu.Unlock()
		if err := cmd.Run(); err == nil {
			t.Fatalf("the put was not killed at %s", at)
		}
		requests.mu.Lock()
		requests.before = nil
		requests.mu.Unlock()
		for n := range hosts {
			checkPointer(t, r, fmt.Sprint("web-", n+1), generation, generation+1)
		}
		if _, log, err := r.putAll(map[string]any{"all": true}); err != nil {
			t.Fatalf("after %s: %v\n%s", at, err, log)
		}
		for n := range hosts {
			checkPointer(t, r, fmt.Sprint("web-", n+1), generation+1, generation+1)
		}
	}
}

// checkPointer checks that a pointer has a generation between two numbers, and
// that all that the last of them leads to is there: stock Nix takes it.
func checkPointer(t *testing.T, r *rig, name string, least, most int) {
	t.Helper()
	data, err := r.cache.read("pointers/" + name + ".json")
	if errors.Is(err, fs.ErrNotExist) && least == 0 {
		return
	}
	var history struct {
		Generations []struct {
			Generation int
			Path       string
		}
	}
	if err == nil {
		err = json.Unmarshal(data, &history)
	}
	if err != nil {
		t.Fatal(err)
	}
	newest := history.Generations[0]
	if newest.Generation < least || newest.Generation > most {
		t.Errorf("%s is at generation %d, want %d to %d", name, newest.Generation, least, most)
	}
	if newest.Generation == most {
		realise(t, r.cache.substituters(r.nix)[0], r.key, r.nix, newest.Path)
	}
}

// SIGTERM, as Concourse sends it, ends all evaluations with the build.
func TestFleetInterrupted(t *testing.T) {
	t.Parallel()
	r := newRig(t, nixtest.Current(t), directory(t.TempDir()))
	r.flake(t, "hosts = 4; work = 8000000;")
	cmd := call("out", r.sources, r.store.Env(), map[string]any{"source": r.publisher(), "params": map[string]any{"flake": "config", "all": true, "eval_workers": 2}})
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	flake := filepath.Join(r.sources, "config")
	for deadline := time.Now().Add(time.Minute); len(evaluations(flake)) < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no two evaluations run\n%s", &log)
		}
	}
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err == nil {
		t.Error("an interrupted put is green")
	}
	if left := evaluations(flake); len(left) > 0 {
		t.Errorf("evaluations go on: %v", left)
	}
	if !strings.HasSuffix(log.String(), "error: interrupted\n") || len(regexp.MustCompile("(?m)^error: ").FindAllString(log.String(), -1)) != 1 {
		t.Errorf("the log says\n%s", &log)
	}
}

// The oldest Nix does it, too, in a directory.
func TestFleetOfOldNix(t *testing.T) {
	t.Parallel()
	r := newRig(t, nixtest.Debian12(t), directory(t.TempDir()))
	r.flake(t, "hosts = 3; failing = true;")
	if _, log, err := r.putAll(map[string]any{"all": true}); err == nil {
		t.Error("the put is green, though a host failed")
	} else {
		wantLog(t, log, "^error: failing: .*-unbuildable.drv can't be built", "^error: failed: 1 of 4 hosts: failing$", "^web-1 moved to generation 1: ", "^web-3 moved to generation 1: ")
	}
	log, err := r.buildAll("web-[12]", "--suffix=-candidate")
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	wantLog(t, log, "^web-2-candidate moved to generation 1: ")
	if names := builds(log); names != nil {
		t.Errorf("built again: %v", names)
	}
	if pointers, err := matching(r.cache, "pointers/*-candidate"); err != nil || len(pointers) != 2 {
		t.Errorf("pointers: %v (%v)", pointers, err)
	}
	if log, err = r.buildAll("web-9"); err == nil {
		t.Error("built a host that there isn't")
	}
	wantLog(t, log, "^error: the flake has no host web-9$", "^hint: did you mean web-1\\?$")
}
