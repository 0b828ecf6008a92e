package e2e_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/faultproxy"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A put of an unchanged flake, in a container with an empty store, builds
// nothing, and neither fetches nor sends a NAR, nor anything else. A change in one
// of 300 paths builds and sends that one and the three that depend on it; what
// they are built from comes from the cache.
func TestUnchangedFlake(t *testing.T) {
	t.Parallel()
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		t.Parallel()
		b := newBucket(t, s3test.Versitygw(t))
		proxy := faultproxy.New(t, b.server.URL)
		b.endpoint = proxy.URL
		r := newRig(t, n, b)
		config := filepath.Join(r.sources, "config")
		flake := "{ outputs = _: { host = import ./many.nix; }; }"
		if err := os.WriteFile(filepath.Join(config, "flake.nix"), []byte(flake), 0o644); err != nil {
			t.Fatal(err)
		}

		first, requests := r.putFlake(t, proxy)
		if len(first.built) != 39 || first.Version.Generation != "1" || uploads(requests) != 300 {
			t.Fatalf("the first put has built %d paths, sent %d NARs, and answered %+v", len(first.built), uploads(requests), first.Version)
		}

		r.store = n.NewStore(t)
		again, requests := r.putFlake(t, proxy)
		if len(again.built) > 0 || again.Version != first.Version {
			t.Errorf("putting it again has built %v, and answered %+v", again.built, again.Version)
		}
		for _, request := range requests {
			if !strings.HasPrefix(request, "GetObject ") && !strings.HasPrefix(request, "HeadObject ") || strings.Contains(request, "/nar/") {
				t.Errorf("putting it again asked for %s", request)
			}
		}
		// The pointer, its copy, the manifest, the pointer again before "it stays" is
		// said, and whether it is known what changed.
		if len(requests) > 5 {
			t.Errorf("putting it again took %d requests: %v", len(requests), requests)
		}
		if there := r.store.All(t); slices.ContainsFunc(there, func(i nix.PathInfo) bool { return i.Path.Name() == "path-0" }) {
			t.Errorf("putting it again has filled the store with %d paths", len(there))
		}

		r.store = n.NewStore(t)
		if err := os.WriteFile(filepath.Join(config, "motd"), []byte("another day"), 0o644); err != nil {
			t.Fatal(err)
		}
		changed, requests := r.putFlake(t, proxy)
		want := []string{"path-0", "path-299", "path-37", "path-4"}
		if slices.Sort(changed.built); !slices.Equal(changed.built, want) || changed.Version.Generation != "2" || uploads(requests) != len(want) {
			t.Errorf("a change has built %v, sent %d NARs, and answered %+v", changed.built, uploads(requests), changed.Version)
		}
	})
}

// A put that is ended while it evaluates or builds, as Concourse does at an abort
// or at a timeout, or killed, ends with all that it has started, however deaf the
// builder is. It leaves neither generation nor lease nor file, and putting again
// finishes it.
func TestEndedBuild(t *testing.T) {
	t.Parallel()
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		tests := []struct {
			name, host string
			signal     syscall.Signal
		}{
			{"ended while it builds", "import ./slow.nix", syscall.SIGTERM},
			{"ended while it evaluates", `(import ./lib.nix).build (builtins.readFile "${import ./slow.nix}/name") { } "mkdir $out"`, syscall.SIGTERM},
			{"killed", "import ./slow.nix", syscall.SIGKILL},
		}
		if strings.HasPrefix(n.Version, "2.8.") { // which, when it is killed itself, leaves its builder to the end of the container
			tests = tests[:2]
		}
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, n, directory(t.TempDir()))
				marker := "marker-" + rand.Text()
				config := filepath.Join(r.sources, "config")
				for name, text := range map[string]string{
					"flake.nix": "{ outputs = _: { host = " + test.host + "; }; }",
					"slow.nix": `(import ./lib.nix).build "slow" { } "trap : TERM; if [ -s ${./motd} ]; then ` +
						`while :; do sleep 1000 ` + marker + ` || :; done; fi; mkdir $out; printf host > $out/name"`,
				} {
					if err := os.WriteFile(filepath.Join(config, name), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				tmp := t.TempDir()
				put := r.build(tmp)
				var stderr strings.Builder
				put.Stderr = &stderr
				if err := put.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- put.Wait() }()
				for len(processes(t, marker)) == 0 {
					select {
					case err := <-ended:
						t.Fatalf("the put has ended by itself (%v):\n%s", err, &stderr)
					case <-time.After(50 * time.Millisecond):
					}
				}
				put.Process.Signal(test.signal)
				if err := <-ended; err == nil {
					t.Errorf("the put has succeeded:\n%s", &stderr)
				}
				for deadline := time.Now().Add(10 * time.Second); len(processes(t, marker)) > 0; time.Sleep(50 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("still running: %v", processes(t, marker))
					}
				}
				left, err := r.cache.list("")
				if err != nil || len(left) > 0 {
					t.Errorf("the cache has %v (%v)", left, err)
				}
				if files, _ := filepath.Glob(filepath.Join(tmp, "*")); test.signal == syscall.SIGTERM && len(files) > 0 {
					t.Errorf("left behind: %v", files)
				}

				if err := os.WriteFile(filepath.Join(config, "motd"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				result, _ := r.putFlake(t, nil)
				if result.Version.Generation != "1" {
					t.Errorf("putting again has made generation %s", result.Version.Generation)
				}
			})
		}
	})
}

// processes are those that have a word among their arguments.
func processes(t *testing.T, word string) []string {
	t.Helper()
	var found []string
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		arguments, _ := os.ReadFile(file) // those that have ended have none
		if strings.Contains(string(arguments), word) {
			found = append(found, strings.ReplaceAll(string(arguments), "\x00", " "))
		}
	}
	return found
}

// build is a put of the attribute host of the flake config, which has a directory
// for temporary files.
func (r *rig) build(tmp string) *program {
	return call("out", r.sources, append(r.store.Env(), "TMPDIR="+tmp), map[string]any{
		"source": r.publisher(), "params": map[string]any{"flake": "config", "attribute": "host"},
	})
}

// A flakePut is what a put of a flake has answered, and the names of what it has
// built.
type flakePut struct {
	put
	built []string
}

// putFlake is build run to its end, with the requests that this has made through
// a proxy, if there is one.
func (r *rig) putFlake(t *testing.T, proxy *faultproxy.Proxy) (flakePut, []string) {
	t.Helper()
	if proxy != nil {
		proxy.Requests()
	}
	var stdout, stderr bytes.Buffer
	p := r.build(t.TempDir())
	p.Stdout, p.Stderr = &stdout, &stderr
	if err := p.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var result flakePut
	if err := json.Unmarshal(stdout.Bytes(), &result.put); err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^building '/nix/store/[a-z0-9]{32}-(.*)\.drv'`).FindAllStringSubmatch(stderr.String(), -1) {
		result.built = append(result.built, line[1])
	}
	if proxy == nil {
		return result, nil
	}
	return result, proxy.Requests()
}

// uploads counts the NARs that requests have sent.
func uploads(requests []string) (nars int) {
	for _, request := range requests {
		if strings.HasPrefix(request, "PutObject ") && strings.Contains(request, "/nar/") {
			nars++
		}
	}
	return nars
}
