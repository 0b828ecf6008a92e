package nix_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The judge is Nix: whatever it gives a content address must check, and must
// not check for another path, other references or another NAR.
func TestContentAddressesOfNix(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		dir := t.TempDir()
		for name, content := range map[string]string{"file": "content", "tree/a": "a", "tree/b/c": "c"} {
			file := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		store.Run(t, "nix-instantiate", "--eval", "--strict", "--read-write-mode", "--expr", `let
			tree = builtins.path { path = `+dir+`/tree; name = "tree"; };
		in [ tree (builtins.toFile "text" "plain") (builtins.toFile "referring" "to ${tree}") ]`)
		store.Run(t, "nix-store", "--add", filepath.Join(dir, "file"))
		for _, algo := range []string{"md5", "sha1", "sha256", "sha512"} {
			store.Run(t, "nix-store", "--add-fixed", algo, filepath.Join(dir, "file"))
			store.Run(t, "nix-store", "--add-fixed", "--recursive", algo, filepath.Join(dir, "tree"))
		}
		got := map[string]int{}
		for _, info := range store.All(t) {
			if info.CA.IsZero() {
				t.Errorf("%s has no content address", info.Path)
				continue
			}
			if err := info.CheckContentAddress(); err != nil {
				t.Error(err)
				continue
			}
			text := info.CA.String()
			got[text[:strings.LastIndex(text, ":")]]++

			forged := info
			forged.References = append([]nix.StorePath{}, mustPath(t, "/nix/store/"+strings.Repeat("0", 32)+"-other"))
			if forged.CheckContentAddress() == nil {
				t.Errorf("%s passes with another reference", info.CA)
			}
			forged = info
			forged.Path = mustPath(t, "/nix/store/"+info.Path.HashPart()+"-other")
			if forged.CheckContentAddress() == nil {
				t.Errorf("%s passes for another name", info.CA)
			}
			forged = info
			forged.NarHash = sha256.Sum256(nil)
			if forged.CheckContentAddress() == nil && strings.HasPrefix(text, "fixed:r:sha256:") {
				t.Errorf("%s passes for another NAR", info.CA)
			}
		}
		want := map[string]int{
			"text:sha256": 2, "fixed:md5": 1, "fixed:sha1": 1, "fixed:sha256": 1, "fixed:sha512": 1,
			"fixed:r:md5": 1, "fixed:r:sha1": 1, "fixed:r:sha256": 2, "fixed:r:sha512": 1,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("kinds of content addresses (-want +got)\n%s", diff)
		}
	})
}

func mustPath(t *testing.T, s string) nix.StorePath {
	t.Helper()
	path, err := nix.ParseStorePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestParseContentAddressRefuses(t *testing.T) {
	for _, s := range []string{
		"text:", "sha256:x", "fixed:git:sha1:00", "fixed:r:sha256:" + strings.Repeat("0", 52) + "\nSig: x", "\n",
		"text:sha1:" + strings.Repeat("0", 40), "fixed:r:r:sha256:" + strings.Repeat("0", 52), "fixed:sha3:00",
	} {
		if _, err := nix.ParseContentAddress(s); err == nil {
			t.Errorf("%q is taken for a content address", s)
		}
	}
}
