package nixtest_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The samples are what the tests of other packages rely on them to be.
func TestSample(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store, sources := n.NewStore(t), nixtest.Sample(t)
		build := func(file, attribute string) []nix.PathInfo {
			return store.Closure(t, store.Build(t, filepath.Join(sources, "config", file), attribute))
		}
		today, other := build("default.nix", "web-1"), build("default.nix", "web-2")
		if err := os.WriteFile(filepath.Join(sources, "config", "motd"), []byte("the next day\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		tomorrow := build("default.nix", "web-1")

		if diff := cmp.Diff([]string{"etc", "nixos-system-web-2-25.05"}, news(today, other)); diff != "" {
			t.Errorf("paths of web-2 that web-1 lacks (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"etc", "motd", "nixos-system-web-1-25.05"}, news(today, tomorrow)); diff != "" {
			t.Errorf("paths of web-1 that are new the next day (-want +got):\n%s", diff)
		}
		if size := narSize(today); size > 4<<20 {
			t.Errorf("web-1 has %d bytes, too many for tests to be quick", size)
		}

		edges := slices.Concat(today, build("edge-cases.nix", "all"))
		for what, is := range map[string]func(nix.PathInfo) bool{
			"references itself":         func(i nix.PathInfo) bool { return slices.Contains(i.References, i.Path) },
			"is a source":               func(i nix.PathInfo) bool { return !i.CA.IsZero() && i.Deriver.IsZero() },
			"is a text with references": func(i nix.PathInfo) bool { return strings.HasPrefix(i.CA.String(), "text:") && len(i.References) > 0 },
			"is a flat download":        func(i nix.PathInfo) bool { return strings.HasPrefix(i.CA.String(), "fixed:sha256:") },
			"is a fixed tree":           func(i nix.PathInfo) bool { return !i.CA.IsZero() && !i.Deriver.IsZero() },
		} {
			if !slices.ContainsFunc(edges, is) {
				t.Errorf("no path of the samples %s", what)
			}
		}
	})
}

// The same derivation, built in two stores, has other bytes.
func TestUnreproducibleSample(t *testing.T) {
	n, sources := nixtest.Current(t), nixtest.Sample(t)
	build := func() nix.PathInfo {
		store := n.NewStore(t)
		return store.Closure(t, store.Build(t, filepath.Join(sources, "config", "edge-cases.nix"), "unreproducible"))[0]
	}
	a, b := build(), build()
	if a.Path != b.Path || a.NarHash == b.NarHash {
		t.Errorf("want one path with two hashes, got %s %s and %s %s", a.Path, a.NarHash, b.Path, b.NarHash)
	}
}

// The hosts of a fleet share 95 % of their paths; of those that can't be had, one
// fails when it is evaluated and one when it is built.
func TestFleet(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store, sources := n.NewStore(t), nixtest.Fleet(t, "hosts = 3; broken = true; failing = true;")
		file := filepath.Join(t.TempDir(), "fleet.nix")
		if err := os.WriteFile(file, []byte("(import "+filepath.Join(sources, "config", "flake.nix")+").outputs null"), 0o644); err != nil {
			t.Fatal(err)
		}
		attribute := func(host string) string {
			return "nixosConfigurations." + host + ".config.system.build.toplevel"
		}
		first, second := store.Closure(t, store.Build(t, file, attribute("web-1"))), store.Closure(t, store.Build(t, file, attribute("web-2")))
		if diff := cmp.Diff([]string{"etc-0-web-2", "nixos-system-web-2-25.05"}, news(first, second)); diff != "" {
			t.Errorf("paths of web-2 that web-1 lacks (-want +got):\n%s", diff)
		}
		if shared := float64(len(first)-2) / float64(len(first)); shared < 0.95 {
			t.Errorf("%.3f of %d paths are shared, want 0.95", shared, len(first))
		}
		store.Run(t, "nix-instantiate", file, "--attr", attribute("failing"))
		if _, err := store.Try("nix-build", "--no-out-link", file, "--attr", attribute("failing")); err == nil || !strings.Contains(err.Error(), "this can not be built") {
			t.Errorf("failing is to fail when it is built: %v", err)
		}
		if _, err := store.Try("nix-instantiate", file, "--attr", attribute("broken")); err == nil || !strings.Contains(err.Error(), "this host can't be evaluated") {
			t.Errorf("broken is to fail when it is evaluated: %v", err)
		}
	})
}

// Keys are Nix's: it signs and verifies with them.
func TestKey(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store, key := n.NewStore(t), nixtest.NewKey(t, "cache.example.org-1")
		root := store.Build(t, filepath.Join(nixtest.Sample(t), "config"), "web-1")
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(key.Secret), 0o600); err != nil {
			t.Fatal(err)
		}
		store.Run(t, "nix", "store", "sign", "--recursive", "--key-file", file, root.String())
		public, err := nix.ParsePublicKey(key.Public)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range store.Closure(t, root) {
			if !info.SignedBy(nix.Keys{public}) {
				t.Errorf("%s is not signed by %s", info.Path, key.Public)
			}
		}
	})
}

func news(before, after []nix.PathInfo) []string {
	var names []string
	for _, info := range after {
		if !slices.ContainsFunc(before, func(i nix.PathInfo) bool { return i.Path == info.Path }) {
			names = append(names, info.Path.Name())
		}
	}
	slices.Sort(names)
	return names
}

func narSize(infos []nix.PathInfo) (size int64) {
	for _, info := range infos {
		size += info.NarSize
	}
	return size
}
