package changes

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The lines about packages are those of nix store diff-closures, between systems
// and between closures of texts with all kinds of names and sizes. The real Nix
// is the judge; sizes differ in form from version to version.
func TestAgreesWithNix(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store, sources := n.NewStore(t), nixtest.Sample(t)
		build := func(file, attribute string) nix.StorePath {
			return store.Build(t, filepath.Join(sources, "config", file), attribute)
		}
		web1 := build("default.nix", "web-1")
		closures := []nix.StorePath{web1, build("default.nix", "web-2"), build("edge-cases.nix", "all")}
		for _, texts := range pairOfTexts {
			closures = append(closures, addTexts(t, store, texts))
		}
		if err := os.WriteFile(filepath.Join(sources, "config", "motd"), []byte(strings.Repeat("good morning\n", 1000)), 0o644); err != nil {
			t.Fatal(err)
		}
		closures = append(closures, build("default.nix", "web-1"))

		infos := map[nix.StorePath][]nix.PathInfo{}
		for _, root := range closures {
			infos[root] = store.Closure(t, root)
		}
		compare := func(before, after nix.StorePath) {
			want := store.Run(t, "nix", "store", "diff-closures", before.String(), after.String())
			want = colours.ReplaceAllString(want, "")
			var lines []string
			for _, p := range Compare(Closure{Root: before, Infos: infos[before]}, Closure{Root: after, Infos: infos[after]}).Packages {
				lines = append(lines, asNix(n, p))
			}
			if diff := cmp.Diff(want, strings.Join(lines, "\n")); diff != "" {
				t.Errorf("from %s to %s (-want +got)\n%s", before, after, diff)
			}
		}
		for i, root := range closures {
			next := closures[(i+1)%len(closures)]
			compare(root, next)
			compare(next, root)
		}
		compare(web1, web1)
	})
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// asNix is the package's line as that Nix would print it: until 2.32 it counts
// all in KiB, and since 2.33 it puts no sign before what grows.
func asNix(n *nixtest.Nix, p Package) string {
	line, ours, growth := p.String(), formatGrowth(p.grows(), false), p.grows()
	if growth == 0 {
		return line
	}
	theirs := strings.TrimPrefix(ours, "+")
	if strings.HasPrefix(n.Version, "2.8.") {
		theirs = fmt.Sprintf("%+.1f KiB", float64(growth)/1024)
	}
	return strings.TrimSuffix(line, ours) + theirs
}

// pairOfTexts are names with sizes in bytes, of two closures.
var pairOfTexts = [2]map[string]int{
	{
		// versions and outputs
		"nginx-1.26.2": 100, "openssl-3.0.14": 100, "openssl-3.0.14-bin": 100, "openssl-3.0.14-dev": 100,
		"libfoo-1.1": 1, "libfoo-1.2": 2, "libfoo-1.3": 3,
		"glibc-2.40-66": 10, "glibc-2.40-66-bin": 10, "gcc-13.3.0-lib": 10, "gcc-13.3.0-lib32": 10, "gcc-13.3.0-lib64": 10, "gcc-13.3.0-lib31": 10,
		"linux-6.12.30": 100, "linux-6.12.30-modules": 100, "linux-6.12.30-modules-shrunk": 100,
		"acpi-call-2020-04-07-5.8.16": 10, "hello-unstable-2024-01-01": 10, "python3.12-requests-2.32.3": 10,
		"dwarf-fortress-0-unstable": 1, "a-B-1": 1, "Font-Awesome-6-Free": 1, "x-1.0-Final": 1, "x-2.0-final": 1,
		// names at the limits of the rules
		"-": 1, "--": 1, "-bin": 1, "-1": 1, "a-": 1, "a--b": 1, "a--1": 1, "a-.1": 1, "a-+": 1, "a_1-2?x=y": 1, "1-2-3": 1, "a-b-c-d": 1, "lib32": 1, "lib-lib32": 1, "z-1-lib3": 1,
		"source": 10, "gone": 10, "gone-too-1": 10, "two": 10, "two-1": 10,
		// sizes around what counts and where units change
		"size-below-1": 0, "size-at-1": 0, "size-above-1": 0, "size-shrinks-1": 8 << 10, "size-kib-1": 0, "size-mib-1": 0, "size-mib-less-1": 1025 << 10, "size-version-1": 0, "size-halfway-1": 0,
	},
	{
		"nginx-1.26.3": 12000, "openssl-3.0.15": 100, "openssl-3.0.15-bin": 100, "openssl-3.0.14-dev": 100,
		"libfoo-1.1": 1, "libfoo-1.4": 4, "libfoo-1.10": 4,
		"glibc-2.40-67": 10, "glibc-2.40-66-bin": 10, "gcc-13.3.1-lib": 10, "gcc-13.3.2-lib32": 10, "gcc-13.3.3-lib64": 10, "gcc-13.3.4-lib31": 10,
		"linux-6.12.31": 100, "linux-6.12.31-modules": 100, "linux-6.12.31-modules-shrunk": 100,
		"acpi-call-2020-04-07-5.8.18": 10, "hello-unstable-2024-02-01": 10, "python3.13-requests-2.32.3": 10,
		"dwarf-fortress-0-stable": 1, "a-b-1": 1, "Font-Awesome-7-Free": 1, "x-1.1-Final": 1, "x-2.1-final": 1,
		"-": 9000, "--": 9000, "-bin": 9000, "-2": 1, "a-": 9000, "a--c": 1, "a--2": 1, "a-.2": 1, "a-=": 1, "a_1-2?x=z": 1, "1-2-4": 1, "a-b-c-e": 1, "lib32": 9000, "lib-lib64": 9000, "z-2-lib3": 1,
		"source": 9000, "come": 10, "come-too-1": 10, "two-2": 10, "two": 10,
		"size-below-1": 8<<10 - 8, "size-at-1": 8 << 10, "size-above-1": 8<<10 + 8, "size-shrinks-1": 0, "size-kib-1": 1 << 20, "size-mib-1": 1025 << 10, "size-mib-less-1": 0, "size-version-2": 8<<10 - 8, "size-halfway-1": 10<<10 + 256,
	},
}

// addTexts adds a path that refers to texts of those names and sizes.
func addTexts(t *testing.T, store *nixtest.Store, texts map[string]int) nix.StorePath {
	t.Helper()
	data, err := json.Marshal(texts)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "texts.json")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	out := store.Run(t, "nix-instantiate", "--eval", "--read-write-mode", "--argstr", "file", file, "--expr", `
		{ file }:
		let
		  texts = builtins.fromJSON (builtins.readFile file);
		  eights = n: builtins.concatStringsSep "" (builtins.genList (_: "12345678") n);
		  text = name: builtins.toFile name (eights (texts.${name} / 8) + builtins.toString (texts.${name}));
		in
		  builtins.toFile "texts" (builtins.toString (map text (builtins.attrNames texts)))`)
	path, err := nix.ParseStorePath(strings.Trim(out, `"`))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
