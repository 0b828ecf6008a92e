package e2e_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A put with the store of another machine builds there, and sends from there
// what the cache hasn't got; this machine's store gets no more than the recipes.
// (The machine is this one, by what Nix has for that: its daemon without ssh.
// With ssh it is tested in internal/nixcmd.)
func TestStoreOfAnotherMachine(t *testing.T) {
	t.Parallel()
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		t.Parallel()
		r, there := newRig(t, n, directory(t.TempDir())), n.NewStore(t)
		source := r.publisher()
		source["store"] = "ssh-ng://localhost?" + url.Values{"remote-program": {n.Program("nix-daemon")}, "remote-store": {there.Dir}}.Encode()
		build := func(attribute string) *program {
			return call("out", r.sources, r.store.Env(), map[string]any{
				"source": source, "params": map[string]any{"file": "config/default.nix", "attribute": attribute},
			})
		}
		w := newWitness(r)

		// Told to end in the middle, it leaves no process and nothing half done.
		cmd := build("web-1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(30 * time.Second)
		for len(family(cmd.Process.Pid)) < 3 && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		children := family(cmd.Process.Pid)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Log("it was done before it was told to end")
		}
		for _, pid := range children {
			for gone := false; !gone; time.Sleep(10 * time.Millisecond) {
				_, err := os.Stat(filepath.Join("/proc", pid, "exe"))
				_, exeErr := os.Readlink(filepath.Join("/proc", pid, "exe")) // a zombie has none
				gone = err != nil || exeErr != nil
				if time.Now().After(deadline) {
					t.Fatalf("the process %s is still there", pid)
				}
			}
		}
		if err := w.look(); err != nil {
			t.Error(err)
		}

		said := new(strings.Builder)
		first, err := answerSaying[put](build("web-1"), said)
		if err != nil {
			t.Fatal(err)
		}
		second, err := answer[put](build("web-2"))
		if err != nil {
			t.Fatal(err)
		}
		if first.Version.Path == second.Version.Path || second.Version.Generation == first.Version.Generation {
			t.Errorf("got %+v and %+v", first, second)
		}
		if !strings.Contains(said.String(), "sent 11 paths") {
			t.Errorf("it says:\n%s", said)
		}
		for _, info := range r.store.All(t) {
			if !info.Deriver.IsZero() {
				t.Errorf("%s is in this machine's store", info.Path)
			}
		}
		if err := w.look(); err != nil {
			t.Error(err)
		}

		// A path that is there can be put by its name.
		source["pointer"] = "web-2"
		byPath, err := answer[put](call("out", r.sources, r.store.Env(), map[string]any{
			"source": source, "params": map[string]any{"store_path": first.Version.Path},
		}))
		if err != nil || byPath.Version.Path != first.Version.Path {
			t.Errorf("by its path: %+v, %v", byPath, err)
		}
	})
}
