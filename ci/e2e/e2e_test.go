// Package e2e breaks the promises of this project, or tries to: with the
// programs as they are shipped, in processes that are killed, raced and watched,
// on a cache in a directory and in a bucket, with stock Nix as the judge.
//
// What one process can see is tested beside the code; here is what only shows
// between processes.
package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// programs is the directory of our programs; in it, impatient/ has those that wait for
// seconds, not minutes. A test builds them, not TestMain: go test doesn't see what that
// looks at.
var programs = sync.OnceValue(func() string {
	var err error
	if built, err = os.MkdirTemp("", "programs"); err == nil {
		built, err = filepath.EvalSymlinks(built)
	}
	if err == nil {
		err = errors.Join(
			nixtest.BuildPrograms(built+"/", "", "../../cmd/..."),
			nixtest.BuildPrograms(filepath.Join(built, "impatient")+"/", "", "./impatient/..."),
		)
	}
	if err != nil {
		panic(err)
	}
	return built
})

var built string // the directory of the programs, if a test needed them

func TestMain(m *testing.M) {
	status := m.Run()
	os.RemoveAll(built)
	os.Exit(status)
}

// A rig is a cache, a pointer in it, one who may publish there, and the store
// and the sources that he publishes from.
type rig struct {
	cache   place
	key     nixtest.Key
	nix     *nixtest.Nix
	store   *nixtest.Store
	sources string
	took    time.Duration // of CPU, by the programs that publish fleets
}

func newRig(t *testing.T, nix *nixtest.Nix, cache place) *rig {
	t.Helper()
	return &rig{
		cache:   cache,
		key:     nixtest.NewKey(t, "cache.example.org-1"),
		nix:     nix,
		store:   nix.NewStore(t),
		sources: nixtest.Sample(t),
	}
}

// nextSystem changes the sample's config and builds it: a system of which
// nothing is in the cache yet if all is true, else only three small paths.
func (r *rig) nextSystem(t *testing.T, all bool) nix.StorePath {
	t.Helper()
	config := filepath.Join(r.sources, "config")
	file := filepath.Join(config, "motd")
	if all {
		file = filepath.Join(config, "busybox", "busybox") // a program runs with bytes after its end
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, rand.Uint64()); err != nil {
		t.Fatal(err)
	}
	return r.store.Build(t, config, "web-1")
}

type version struct {
	Generation string `json:"generation"`
	Path       string `json:"path"`
}

func (r *rig) publisher() map[string]any {
	return r.source("signing_key", r.key.Secret)
}

func (r *rig) follower() map[string]any {
	return r.source("trusted_public_keys", []string{r.key.Public})
}

func (r *rig) source(key string, value any) map[string]any {
	source := r.cache.source()
	source["pointer"], source[key] = "web-1", value
	return source
}

// A program is ready to start.
type program struct {
	*exec.Cmd
	secrets []string // in its request
	watched bool     // answer looks at its process, too

	measured bool  // answer measures how much memory it takes:
	peak     int64 // the most it had at once, in bytes
}

// call is a program with its request on stdin.
func call(name, dir string, env []string, request map[string]any) *program {
	text, err := json.Marshal(request)
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(filepath.Join(programs(), name), dir)
	cmd.Env, cmd.Dir = env, "/"
	cmd.Stdin = bytes.NewReader(text)
	return &program{Cmd: cmd, secrets: secretsOf(request["source"].(map[string]any))}
}

// answer runs a program to its end and decodes what it says.
func answer[T any](cmd *program) (T, error) { return answerSaying[T](cmd, new(strings.Builder)) }

// answerSaying is answer, and keeps what the program says to people.
func answerSaying[T any](cmd *program, stderr *strings.Builder) (T, error) {
	var stdout strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	var value T
	if err := cmd.Start(); err != nil {
		return value, err
	}
	leaked := func() error { return nil }
	if cmd.watched {
		leaked = cmd.watch()
	}
	if cmd.measured {
		peak := cmd.measure()
		defer func() { cmd.peak = peak() }()
	}
	err := cmd.Wait()
	if leak := errors.Join(leaked(), cmd.secretIn(stdout.String()+stderr.String())); leak != nil {
		return value, fmt.Errorf("%s has shown %w", filepath.Base(cmd.Path), leak)
	}
	if err != nil {
		return value, fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, stderr.String())
	}
	if err := json.Unmarshal([]byte(stdout.String()), &value); err != nil {
		return value, fmt.Errorf("%s printed %q: %w", filepath.Base(cmd.Path), stdout.String(), err)
	}
	return value, nil
}

// out is a put of a path that the store has.
func (r *rig) out(path nix.StorePath) *program {
	return call("out", r.sources, r.store.Env(), map[string]any{
		"source": r.publisher(),
		"params": map[string]any{"store_path": path.String()},
	})
}

func (r *rig) check(given *version) *program {
	return call("check", "", []string{}, map[string]any{"source": r.follower(), "version": given})
}

func (r *rig) in(dir string, v version) *program { return r.get(dir, v, "rootfs") }

func (r *rig) get(dir string, v version, format string) *program {
	return call("in", dir, []string{}, map[string]any{
		"source": r.follower(), "version": v, "params": map[string]any{"format": format},
	})
}

type put struct{ Version version }

// must is the value, or the end of the test.
func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
