package nixcmd

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// What a host asks of its store: which paths it lacks, to fetch a closure, and to
// set a profile.
func TestHostStore(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		builder, key := n.NewStore(t), nixtest.NewKey(t, "cache.example.org-1")
		root := builder.Build(t, filepath.Join(nixtest.Sample(t), "config"), "web-1")
		keyFile := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(keyFile, []byte(key.Secret), 0o600); err != nil {
			t.Fatal(err)
		}
		cache := "file://" + filepath.Join(nixtest.TempDir(t), "cache")
		builder.Run(t, "nix", "store", "sign", "--recursive", "--key-file", keyFile, root.String())
		builder.Run(t, "nix", "copy", "--to", cache, root.String())
		var paths []nix.StorePath
		for _, info := range builder.Closure(t, root) {
			paths = append(paths, info.Path)
		}

		theirs := n.NewStore(t)
		theirs.Setenv(t)
		public, err := nix.ParsePublicKey(key.Public)
		if err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		openWith := func(settings Settings) *Store {
			t.Helper()
			s, err := Open(t.Context(), Options{Log: &log, Settings: settings})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		}
		plain := openWith(Settings{})
		invalid, err := plain.Invalid(t.Context(), paths...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(paths, invalid, comparePaths); diff != "" {
			t.Errorf("paths that an empty store lacks (-want +got)\n%s", diff)
		}

		// Only by whom it is told, and only by a key that it is told.
		if err := plain.Substitute(t.Context(), root); err == nil {
			t.Error("it was fetched from nowhere")
		}
		if err := openWith(Settings{Substituters: []string{cache}}).Substitute(t.Context(), root); err == nil {
			t.Error("it was fetched though no key is trusted")
		}
		if err := openWith(Settings{Substituters: []string{cache}, PublicKeys: nix.Keys{public}}).Substitute(t.Context(), root); err != nil {
			t.Fatal(err)
		}
		if invalid, err = plain.Invalid(t.Context(), paths...); err != nil || len(invalid) > 0 {
			t.Errorf("it lacks %v, %v", invalid, err)
		}
		theirs.Closure(t, root) // fails unless all is valid

		profile := filepath.Join(t.TempDir(), "system")
		for range 2 { // a second time, it makes no other generation
			if err := plain.SetProfile(t.Context(), profile, root); err != nil {
				t.Fatal(err)
			}
		}
		if target, err := os.Readlink(profile); err != nil || target != "system-1-link" {
			t.Errorf("the profile leads to %s, %v", target, err)
		}
		if target, err := os.Readlink(profile + "-1-link"); err != nil || target != root.String() {
			t.Errorf("its generation leads to %s, %v", target, err)
		}
		missing, err := nix.ParseBaseName(strings.Repeat("0", 32) + "-missing")
		if err != nil {
			t.Fatal(err)
		}
		if err := plain.SetProfile(t.Context(), profile, missing); err == nil {
			t.Error("a profile was set to a path that is not there")
		}
	})
}
