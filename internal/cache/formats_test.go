package cache

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// example returns the block of docs/formats.md with that label.
func example(t *testing.T, label string) string {
	t.Helper()
	document, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(document), "\n```text "+label+"\n")
	block, _, closed := strings.Cut(rest, "\n```")
	if !ok || !closed {
		t.Fatalf("docs/formats.md has no example %q", label)
	}
	return block + "\n"
}

// The documented cache is one: its manifest alone, with the documented key,
// gives the closure, and the narinfo in it is the documented one.
func TestDocumentedCache(t *testing.T) {
	key, err := nix.ParsePublicKey(example(t, "public key"))
	if err != nil {
		t.Fatal(err)
	}
	narinfo, manifest := example(t, "narinfo"), example(t, "closures/<hash>")
	root, err := ParseNarInfo(narinfo)
	if err != nil {
		t.Fatal(err)
	}
	place := blob.NewMemory()
	write(t, place, manifestKey(root.Path), manifest)
	upstream := New(named{blob.NewMemory(), "https://upstream.example.org"}, Config{})
	c := New(place, Config{RequireSigs: true, PublicKeys: nix.Keys{key}, Substituters: []*Cache{upstream}})
	closure, err := c.Closure(t.Context(), root.Path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(narinfo, closure.RootInfo().Text()); diff != "" {
		t.Errorf("the root's narinfo in the manifest (-documented +there)\n%s", diff)
	}
	if diff := cmp.Diff(manifest, formatManifest(closure.Paths)); diff != "" {
		t.Errorf("the manifest (-documented +written)\n%s", diff)
	}
	if got := closure.Paths[0].Upstream(); got != upstream.String() {
		t.Errorf("the first path is in %q, documented is %s", got, upstream)
	}
	if diff := cmp.Diff(example(t, "nix-cache-info"), New(place, Config{}).info()); diff != "" {
		t.Errorf("nix-cache-info (-documented +written)\n%s", diff)
	}
}
