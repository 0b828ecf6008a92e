package nixstore_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

var comparePaths = cmp.Options{cmp.AllowUnexported(nix.StorePath{}), cmpopts.EquateEmpty()}

// Whatever Nix builds, we restore such that either Nix takes it for a store of
// its own: nothing missing, nothing else, everything whole.
func TestRootIsAStore(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		sources := nixtest.Sample(t)
		pair := nixtest.NewKey(t, "test-1")
		key, err := nix.ParseSecretKey(pair.Secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, root := range []nix.StorePath{
			store.Build(t, filepath.Join(sources, "config/default.nix"), "web-1"),
			store.Build(t, filepath.Join(sources, "config/edge-cases.nix"), "all"),
		} {
			want := store.Closure(t, root)
			for i := range want {
				want[i].Sign([]nix.SecretKey{key})
			}
			dir := nixtest.TempDir(t)
			restore(t, store, dir, want)

			nixtest.Each(t, func(t *testing.T, reader *nixtest.Nix) {
				restored := reader.OpenStore(t, dir)
				restored.Configure(t, "trusted-public-keys = "+pair.Public)
				if diff := cmp.Diff(want, restored.Closure(t, root), comparePaths); diff != "" {
					t.Errorf("what Nix knows (-want +got)\n%s", diff)
				}
				if diff := cmp.Diff(want, restored.All(t), comparePaths); diff != "" {
					t.Errorf("what Nix knows of all paths (-want +got)\n%s", diff)
				}
				restored.Run(t, "nix-store", "--verify", "--check-contents")
				restored.Run(t, "nix", "store", "verify", "--recursive", "--sigs-needed", "1", root.String())
			})
			entries, err := os.ReadDir(filepath.Join(dir, nix.StoreDir))
			if err != nil {
				t.Fatal(err)
			}
			var got, registered []string
			for _, entry := range entries {
				if entry.Name() != ".links" { // Nix's own
					got = append(got, entry.Name())
				}
			}
			for _, info := range want {
				registered = append(registered, info.Path.Base())
			}
			if diff := cmp.Diff(registered, got); diff != "" {
				t.Errorf("what lies in the store (-registered +there)\n%s", diff)
			}
		}
	})
}

// restore makes a root in dir with paths from store.
func restore(t *testing.T, store *nixtest.Store, dir string, infos []nix.PathInfo) {
	t.Helper()
	root, err := nixstore.CreateRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		r, w := io.Pipe()
		go func() { w.CloseWithError(nar.Dump(w, store.RealPath(info.Path))) }()
		if err := root.Restore(t.Context(), info.Path, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := root.Register(t.Context(), infos); err != nil {
		t.Fatal(err)
	}
}

// What nixpkgs' closureInfo would say is enough for Nix to register a closure.
func TestRegistrationLoads(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		root := store.Build(t, filepath.Join(nixtest.Sample(t), "config/default.nix"), "web-1")
		infos := store.Closure(t, root)

		empty := n.NewStore(t)
		load := exec.Command("sh", "-c", "exec nix-store --load-db")
		load.Env = empty.Env()
		load.Stdin = strings.NewReader(nixstore.Registration(infos))
		if out, err := load.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		got := empty.All(t)
		for i := range infos {
			infos[i].Deriver, infos[i].Signatures, infos[i].CA = nix.StorePath{}, nil, ""
		}
		if diff := cmp.Diff(infos, got, comparePaths); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}

		var paths []string
		for _, info := range infos {
			paths = append(paths, info.Path.String())
		}
		if diff := cmp.Diff(strings.Join(paths, "\n")+"\n", nixstore.StorePaths(infos)); diff != "" {
			t.Errorf("store-paths (-want +got)\n%s", diff)
		}
	})
}

// A store that can't be finished has no database.
func TestRegisterIncompleteClosure(t *testing.T) {
	missing, err := nix.ParseBaseName(strings.Repeat("0", 32) + "-missing")
	if err != nil {
		t.Fatal(err)
	}
	path, err := nix.ParseBaseName(strings.Repeat("1", 32) + "-path")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := nixstore.CreateRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = root.Register(t.Context(), []nix.PathInfo{{Path: path, NarSize: 1, References: []nix.StorePath{missing}}})
	if err == nil || !strings.Contains(err.Error(), "refers to "+missing.String()) {
		t.Errorf("got %v, want the missing reference named", err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "nix/var/nix/db"))
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestRestoreEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root, err := nixstore.CreateRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path, err := nix.ParseBaseName(strings.Repeat("1", 32) + "-path")
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Restore(ctx, path, strings.NewReader("")); err == nil {
		t.Error("no error")
	}
}
