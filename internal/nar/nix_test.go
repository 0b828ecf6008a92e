package nar

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// Nix accepts and refuses what we do, and makes the same files of it.
func TestVerdictOfNix(t *testing.T) {
	nixtest.Current(t).NewStore(t).Setenv(t)
	for _, f := range fixtures {
		t.Run(f.name, func(t *testing.T) {
			path := filepath.Join(nixtest.TempDir(t), "x")
			restore := exec.Command("nix-store", "--restore", path)
			restore.Stdin = bytes.NewReader(f.data)
			out, err := restore.CombinedOutput()
			if accepted := f.wrong == "" || f.lax; (err == nil) != accepted {
				t.Fatalf("we say %q, and nix-store --restore: %v\n%s", f.wrong, err, out)
			}
			if f.wrong != "" {
				return
			}
			var got bytes.Buffer
			if err := Dump(&got, path); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(f.data, got.Bytes()); diff != "" {
				t.Errorf("our dump of what Nix has restored (-want +got):\n%s", diff)
			}
		})
	}
}

// Of a tree at the limits of the format, built by Nix, our dump is Nix's, and
// what we make of that is like the original in all that Nix makes canonical.
func TestLikeNix(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		store.Setenv(t)
		edges := filepath.Join(nixtest.Sample(t), "config", "edge-cases.nix")
		for _, attribute := range []string{"shapes", "file", "executable", "link", "tree"} {
			path := store.Build(t, edges, attribute)
			want, err := exec.Command("nix-store", "--dump", store.RealPath(path)).Output()
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := Dump(&got, store.RealPath(path)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, got.Bytes()) {
				t.Errorf("%s: our dump differs from nix-store --dump", attribute)
			}

			root, err := os.OpenRoot(nixtest.TempDir(t))
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if err := Restore(bytes.NewReader(want), root, path.Base(), InStore); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(metadata(t, store.RealPath(path)), metadata(t, filepath.Join(root.Name(), path.Base()))); diff != "" {
				t.Errorf("%s (-Nix's +ours):\n%s", attribute, diff)
			}
		}
	})
}
