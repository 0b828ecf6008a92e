package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The logs of what a put has built, and of what it failed to build, are where
// stock Nix looks for them.
func TestBuildLogs(t *testing.T) {
	inEachPlace(t, func(t *testing.T, cache place) {
		nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
			r := newRig(t, n, cache)
			source := r.publisher()
			source["build_logs"], source["pointer"] = true, "web-"+n.Version
			text := `with import ./lib.nix; {
				good = build "good" { } "echo it went well in ` + n.Version + `; echo > $out";
				bad = build "bad" { } "echo it went wrong in ` + n.Version + `; exit 1";
			}`
			if err := os.WriteFile(filepath.Join(r.sources, "config", "logs.nix"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			build := func(attribute string) (put, string, error) {
				said := new(strings.Builder)
				got, err := answerSaying[put](call("out", r.sources, r.store.Env(), map[string]any{
					"source": source, "params": map[string]any{"file": "config/logs.nix", "attribute": attribute},
				}), said)
				return got, said.String(), err
			}
			shows := func(path, want string) {
				t.Helper()
				if strings.HasSuffix(path, ".drv") && strings.HasPrefix(n.Version, "2.8.") { // whose nix log wants the recipe, too
					for _, url := range cache.substituters(n) {
						empty := n.NewStore(t)
						if got, err := empty.Try("nix-store", "--store", url, "--read-log", path); err != nil || !strings.Contains(got, want) {
							t.Errorf("nix-store --store %s --read-log %s: %q, %v", url, path, got, err)
						}
					}
					return
				}
				for _, url := range cache.substituters(n) {
					empty := n.NewStore(t)
					if got, err := empty.Try("nix", "log", "--store", url, path); err != nil || !strings.Contains(got, want) {
						t.Errorf("nix log --store %s %s: %q, %v", url, path, got, err)
					}
				}
				empty := n.NewStore(t)
				empty.Configure(t, "substituters = "+strings.Join(cache.substituters(n), " "))
				if got, err := empty.Try("nix", "log", path); err != nil || !strings.Contains(got, want) {
					t.Errorf("with the cache among the substituters: nix log %s: %q, %v", path, got, err)
				}
			}

			got, said, err := build("good")
			if err != nil {
				t.Fatal(err)
			}
			shows(got.Version.Path, "it went well in "+n.Version)
			if !strings.Contains(said, "kept ") {
				t.Errorf("it doesn't say so:\n%s", said)
			}
			_, said, err = build("bad")
			if err == nil {
				t.Fatal("a failing build was put")
			}
			_, after, _ := strings.Cut(said, "error: /nix/store/")
			derivation, _, _ := strings.Cut(after, " can't be built")
			shows("/nix/store/"+derivation, "it went wrong in "+n.Version)

			// Of no consequence.
			if dir, ok := cache.(directory); ok {
				if err := os.RemoveAll(filepath.Join(string(dir), "log")); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(string(dir), "log"), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(filepath.Join(string(dir), "log"))
				r.store = n.NewStore(t)
				if err := os.WriteFile(filepath.Join(r.sources, "config", "logs.nix"), []byte(strings.ReplaceAll(text, "well", "better")), 0o644); err != nil {
					t.Fatal(err)
				}
				if _, said, err := build("good"); err != nil || !strings.Contains(said, "warning: ") || !strings.Contains(said, "not kept") {
					t.Errorf("logs that can't be stored: %v\n%s", err, said)
				}
			}
		})
	})
}
