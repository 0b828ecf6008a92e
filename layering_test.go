// Package layering holds no code: its test keeps the rooms of this project
// apart.
package layering_test

import (
	"errors"
	"go/build"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nixos-closure/nixos-closure-resource/"

// Each room, and the rooms that it may know: cmd → resource → cache, pointer,
// nixstore → blob, nar, nix, hint.
//
// A pointer that knew caches, or a cache that knew stores, couldn't be read,
// tested or used without them; a place of bytes that knew what they mean would
// have to learn each new meaning. What one of them needs of its neighbour,
// resource hands to it.
var rooms = map[string][]string{
	"cmd":                  {"resource", "internal/command"},
	"internal/command":     {"resource", "internal/host", "internal/changes", "internal/pointer", "internal/nix", "internal/hint", "internal/version"},
	"resource":             {"internal/handover", "internal/changes", "internal/substituter", "internal/cache", "internal/pointer", "internal/nixstore", "internal/blob", "internal/nix", "internal/hint"},
	"internal/host":        {"internal/report", "internal/substituter", "internal/cache", "internal/pointer", "internal/nixstore", "internal/blob", "internal/nix", "internal/hint"},
	"internal/report":      {"internal/nix", "internal/hint"},
	"internal/substituter": {"internal/cache", "internal/blob", "internal/nix"},
	"internal/handover":    {"internal/cache", "internal/nixstore", "internal/blob", "internal/nix", "internal/hint"},
	"internal/changes":     {"internal/blob", "internal/nix", "internal/hint"},
	"internal/cache":       {"internal/blob", "internal/nar", "internal/nix", "internal/hint"},
	"internal/pointer":     {"internal/blob", "internal/nix", "internal/hint"},
	"internal/nixstore":    {"internal/nar", "internal/nix", "internal/hint"},
	"internal/blob":        {"internal/hint", "internal/version"},
	"internal/nar":         {},
	"internal/nix":         {"internal/hint"},
	"internal/hint":        {},
	"internal/version":     {},
}

// What only tests and people at work on this project use: it may import what it
// likes, and no room may import it.
var forTests = []string{"ci", "internal/blob/blobtest", "internal/blob/faultproxy", "internal/blob/s3test", "internal/nixtest"}

// What only some rooms may import of other people's work, and why.
var reserved = map[string]struct {
	why   string
	rooms []string
}{
	"os/exec":                      {"only building, reading a local store, and activating a system need another program", []string{"internal/nixstore", "internal/host"}},
	"net/http":                     {"only a place of bytes is reached over a network, and only Nix is served, over loopback", []string{"internal/blob", "internal/substituter"}},
	"github.com/aws/aws-sdk-go-v2": {"it is large, and a bucket is a place of bytes", []string{"internal/blob"}},
	"golang.org/x/crypto/ssh":      {"only Nix's stores and sources are reached by ssh", []string{"internal/nixstore"}},
	"database/sql":                 {"only a store has a database", []string{"internal/nixstore"}},
	"github.com/spf13/cobra":       {"the three programs of the resource have no arguments to parse", []string{"internal/command"}},
	"log":                          {"libraries are silent, and resource alone writes for people", nil},
	"flag":                         {"the resource's programs are told everything on stdin, and nixos-closure has cobra's", nil},
	"testing":                      {"tests are no part of the programs", nil},
	"C":                            {"the programs are static", nil},
}

func TestImportsGoOneWay(t *testing.T) {
	for pkg, imports := range packages(t) {
		room := roomOf(pkg)
		if slices.Contains(forTests, room) {
			continue
		}
		if room == "" {
			t.Errorf("%s is in no room: say in this test whom it may import", pkg)
		}
		for _, path := range imports {
			if neighbour, ok := strings.CutPrefix(path, module); ok {
				if other := roomOf(neighbour); other != room && !slices.Contains(rooms[room], other) {
					t.Errorf("%s imports %s; of other rooms it may import %q", pkg, neighbour, rooms[room])
				}
			}
			for prefix, r := range reserved {
				if within(path, prefix) && !slices.Contains(r.rooms, room) {
					t.Errorf("%s imports %s: %s", pkg, path, r.why)
				}
			}
		}
	}
}

// packages are this module's, by their directory, with what each imports other
// than in its tests. (They are read here, not by the go command, so that go test
// sees that a cached result is stale.)
func packages(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	err := filepath.WalkDir(".", func(dir string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || dir == "." {
			return err
		}
		_, otherModule := os.Stat(filepath.Join(dir, "go.mod"))
		if strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || otherModule == nil {
			return filepath.SkipDir
		}
		pkg, err := build.ImportDir(dir, 0)
		if noGo := (*build.NoGoError)(nil); errors.As(err, &noGo) {
			return nil
		}
		all[filepath.ToSlash(dir)] = pkg.Imports
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// roomOf is the innermost room that a package is in.
func roomOf(pkg string) (room string) {
	for _, name := range slices.AppendSeq(slices.Clone(forTests), maps.Keys(rooms)) {
		if within(pkg, name) && len(name) > len(room) {
			room = name
		}
	}
	return room
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
