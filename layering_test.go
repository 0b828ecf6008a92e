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

// A room is a package, or several below one name, and the rooms that it may know.
type room struct {
	why   string // it knows these and no others
	knows []string
}

// The fronts (cmd, resource, command) call the engine (build, publish, download),
// which works on a site, which opens caches and pointers; below are stores of
// bytes, NARs, and Nix's words. Arrows go down.
var rooms = map[string]room{
	"cmd":                  {"the programs are three lines each", []string{"resource", "internal/command"}},
	"resource":             {"it words requests and answers, and the engine does the work; it knows no command", []string{"internal/build", "internal/publish", "internal/download", "internal/site", "internal/fields", "internal/blob", "internal/console", "internal/pointer", "internal/nixcmd", "internal/regular", "internal/nix", "internal/hint"}},
	"internal/command":     {"it reads flags and prints tables, and the engine does the work; it knows no pipeline", []string{"internal/build", "internal/publish", "internal/download", "internal/host", "internal/site", "internal/fields", "internal/blob", "internal/console", "internal/changes", "internal/cache", "internal/pointer", "internal/store", "internal/nixcmd", "internal/regular", "internal/nix", "internal/hint", "internal/version"}},
	"internal/build":       {"candidates that need Nix: it alone of the engine has programs run", []string{"internal/publish", "internal/site", "internal/fields", "internal/console", "internal/substituter", "internal/cache", "internal/pointer", "internal/nixcmd", "internal/regular", "internal/nix", "internal/hint"}},
	"internal/publish":     {"pushing, promoting and importing start no program", []string{"internal/site", "internal/console", "internal/imports", "internal/changes", "internal/cache", "internal/pointer", "internal/blob", "internal/nix", "internal/hint"}},
	"internal/download":    {"a get starts no program", []string{"internal/site", "internal/console", "internal/changes", "internal/cache", "internal/pointer", "internal/store", "internal/blob", "internal/nix", "internal/hint"}},
	"internal/site":        {"it opens what the engine works on, and does nothing with it", []string{"internal/fields", "internal/console", "internal/changes", "internal/cache", "internal/pointer", "internal/blob", "internal/nix", "internal/hint"}},
	"internal/fields":      {"it knows the form of what people write, not its meaning", []string{"internal/hint"}},
	"internal/console":     {"it knows people, not what runs", []string{"internal/hint"}},
	"internal/host":        {"it follows what it is given; whoever opens that is its front", []string{"internal/report", "internal/substituter", "internal/cache", "internal/pointer", "internal/nixcmd", "internal/blob", "internal/nix", "internal/hint"}},
	"internal/report":      {"whoever reads what hosts say needs no host", []string{"internal/nix", "internal/hint"}},
	"internal/substituter": {"it serves caches to Nix, and has no Nix run", []string{"internal/cache", "internal/blob", "internal/nix"}},
	"internal/imports":     {"what earlier steps have left is read without Nix", []string{"internal/cache", "internal/store", "internal/blob", "internal/compression", "internal/regular", "internal/ctxio", "internal/nix", "internal/tempdir", "internal/hint"}},
	"internal/changes":     {"it compares what it is given", []string{"internal/blob", "internal/nix", "internal/hint"}},
	"internal/cache":       {"a cache knows no pointer and no store: who pushes hands it what to push", []string{"internal/blob", "internal/compression", "internal/nar", "internal/nix", "internal/hint"}},
	"internal/pointer":     {"a pointer knows no cache: who moves it has seen to the closure", []string{"internal/blob", "internal/nix", "internal/hint"}},
	"internal/nixcmd":      {"Nix is run for those who know why", []string{"internal/nar", "internal/ctxio", "internal/regular", "internal/nix", "internal/tempdir", "internal/hint"}},
	"internal/store":       {"a store on disk is written and read without Nix", []string{"internal/nar", "internal/regular", "internal/ctxio", "internal/nix", "internal/tempdir", "internal/hint"}},
	"internal/blob":        {"a store of bytes that knew what they mean would have to learn each new meaning", []string{"internal/compression", "internal/ctxio", "internal/hint", "internal/version"}},
	"internal/nar":         {"a leaf", nil},
	"internal/nix":         {"Nix's words, and what is wrong with them", []string{"internal/hint"}},
	"internal/ctxio":       {"a leaf", nil},
	"internal/compression": {"a leaf", nil},
	"internal/regular":     {"a leaf", nil},
	"internal/hint":        {"a leaf", nil},
	"internal/tempdir":     {"a leaf", nil},
	"internal/version":     {"a leaf", nil},
}

// startsNothing are rooms whose users need no Nix: nothing that they lead to may
// start a program.
var startsNothing = []string{"internal/download", "internal/publish", "internal/imports", "internal/site", "internal/pointer", "internal/cache", "internal/store", "internal/report"}

// What only tests and people at work on this project use: it may import what it
// likes, and no room may import it.
var forTests = []string{"ci", "internal/blob/blobtest", "internal/blob/faultproxy", "internal/blob/s3test", "internal/nixtest"}

// What only some rooms may import of other people's work, and why.
var reserved = map[string]struct {
	why   string
	rooms []string
}{
	"os/exec":                      {"Nix, and what it needs, is the only other program, but for what a host activates and examines; a store has this one read strangers' databases", []string{"internal/nixcmd", "internal/store", "internal/host"}},
	"net/http":                     {"only a place of bytes is reached over a network, and only Nix is served, over loopback", []string{"internal/blob", "internal/substituter"}},
	"github.com/aws/aws-sdk-go-v2": {"it is large, and a bucket is a place of bytes", []string{"internal/blob"}},
	"golang.org/x/crypto/ssh":      {"only Nix's stores and sources are reached by ssh", []string{"internal/nixcmd"}},
	"database/sql":                 {"only a store has a database", []string{"internal/store"}},
	"github.com/spf13/cobra":       {"the three programs of the resource have no arguments to parse", []string{"internal/command"}},
	"log":                          {"libraries are silent, and what is for people goes through a console", nil},
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
				if other := roomOf(neighbour); other != room && !slices.Contains(rooms[room].knows, other) {
					t.Errorf("%s imports %s; of other rooms it may import %q: %s", pkg, neighbour, rooms[room].knows, rooms[room].why)
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

// Who needs no Nix can't come to start it, through whatever rooms; and no two rooms
// need each other.
func TestRoomsAreInOrder(t *testing.T) {
	var reach func(room string, path []string) []string
	reach = func(name string, path []string) (reached []string) {
		if slices.Contains(path, name) {
			t.Fatalf("a circle: %q leads back to %s", path, name)
		}
		for _, next := range rooms[name].knows {
			reached = append(append(reached, next), reach(next, append(slices.Clip(path), name))...)
		}
		return reached
	}
	for name := range rooms {
		reach(name, nil)
	}
	for _, name := range startsNothing {
		for _, reached := range append(reach(name, nil), name) {
			if reached == "internal/nixcmd" {
				t.Errorf("%s leads to %s, which starts other programs", name, reached)
			}
		}
	}
}

// What the programs need while they run is made by tempdir, which removes what
// those have left that were killed.
func TestTemporaryDirectories(t *testing.T) {
	for pkg := range packages(t) {
		if room := roomOf(pkg); slices.Contains(forTests, room) || room == "internal/tempdir" {
			continue
		}
		files, err := filepath.Glob(filepath.Join(pkg, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(file, "_test.go") && (strings.Contains(string(text), `os.MkdirTemp("`) || strings.Contains(string(text), `os.CreateTemp("`)) {
				t.Errorf("%s makes a temporary file or directory by itself: use internal/tempdir", file)
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
