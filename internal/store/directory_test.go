package store

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// Signatures are a set, which one Nix sorts in another way than the next.
var comparePaths = cmp.Options{
	cmp.AllowUnexported(nix.StorePath{}, nix.ContentAddress{}),
	cmpopts.EquateEmpty(),
	cmpopts.SortSlices(func(a, b nix.Signature) bool { return a.String() < b.String() }),
}

// What Nix knows of a store that it has made, we read without it: also where
// Nix has left all of it in the database's log.
func TestDirectoryOfNix(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		sources := nixtest.Sample(t)
		for _, root := range []nix.StorePath{
			store.Build(t, filepath.Join(sources, "config/default.nix"), "web-1"),
			store.Build(t, filepath.Join(sources, "config/edge-cases.nix"), "all"),
		} {
			want := store.Closure(t, root)
			d := openDirectory(t, store.Dir)
			got, err := d.Closure(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, comparePaths); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			for _, info := range want {
				var mine, its bytes.Buffer
				if err := d.DumpNAR(t.Context(), info.Path, &mine); err != nil {
					t.Fatal(err)
				}
				if err := nar.Dump(&its, store.RealPath(info.Path)); err != nil || !bytes.Equal(mine.Bytes(), its.Bytes()) {
					t.Errorf("%s is dumped differently (%v)", info.Path, err)
				}
			}
		}
	})
}

// In a store in which one system was built, the system is its one root, with
// all that building it took lying around; that of two has two.
func TestDirectoryRoots(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		file := filepath.Join(nixtest.Sample(t), "config/default.nix")
		var want []nix.StorePath
		for _, host := range []string{"web-1", "web-2"} {
			want = nix.SortPaths(append(want, store.Build(t, file, host)))
			got, err := openDirectory(t, store.Dir).Roots(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, comparePaths); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		}
	})
}

func openDirectory(t *testing.T, dir string) *Directory {
	t.Helper()
	d, err := OpenDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// directory makes a store of two paths, of which b refers to a, and changes its
// database.
func directory(t *testing.T, change string) (dir string, a, b nix.StorePath) {
	t.Helper()
	dir, a, b = nixtest.TempDir(t), storePath(t, "0", "a"), storePath(t, "0", "b")
	infos := []nix.PathInfo{
		{Path: a, NarHash: nix.Hash{1}, NarSize: 1},
		{Path: b, NarHash: nix.Hash{1}, NarSize: 1, References: []nix.StorePath{a}},
	}
	if err := rootWith(t, dir, a, b).Register(t.Context(), infos); err != nil {
		t.Fatal(err)
	}
	execute(t, database(dir), change)
	return dir, a, b
}

// execute changes a database, which stays open until the test ends.
func execute(t *testing.T, file, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Exec(statements); err != nil {
		t.Fatal(err)
	}
}

// What its database or its files lie about, as far as can be told without their
// hashes, is an error that says where; and nothing is left behind.
func TestDirectoryRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change string // of the database
		damage func(dir string) error
		want   string
	}{
		{name: "a reference that is not registered", change: "delete from ValidPaths where path like '%-a'", want: "-b refers to a path that is not registered"},
		{name: "no such root", change: "delete from Refs; delete from ValidPaths where path like '%-b'", want: "-b is not in the store"},
		{name: "no size", change: "update ValidPaths set narSize = null", want: "the size of"},
		{name: "a negative size", change: "update ValidPaths set narSize = -1", want: "the size of"},
		{name: "no hash", change: "update ValidPaths set hash = 'md5:' || hash", want: "is not a SHA-256"},
		{name: "a path elsewhere", change: "update ValidPaths set path = '/etc/' || path where path like '%-a'", want: "is not a store path"},
		{name: "a path below one", change: "update ValidPaths set path = path || '/bin' where path like '%-a'", want: "is not a store path"},
		{name: "a signature that is not one", change: "update ValidPaths set sigs = 'signed, believe me'", want: "a signature of"},
		{name: "a deriver that is not one", change: "update ValidPaths set deriver = 'me'", want: "the deriver of"},
		{name: "a content address that goes on on the next line", change: "update ValidPaths set ca = 'text:sha256:' || substr(hash, 8) || char(10) || 'Sig: x'", want: "the content address of"},
		{name: "a content address that is not one", change: "update ValidPaths set ca = 'believe me'", want: "the content address of"},
		{name: "tables that compute", change: "alter table Refs rename to r; create view Refs as select * from r", want: "is not that of a store"},
		{name: "another schema", damage: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "nix/var/nix/db/schema"), []byte("11"), 0o644)
		}, want: `schema "11"`},
		{name: "no schema", damage: func(dir string) error { return os.Remove(filepath.Join(dir, "nix/var/nix/db/schema")) }, want: "schema: no such file"},
		{name: "a database that is none", damage: func(dir string) error {
			return os.WriteFile(database(dir), bytes.Repeat([]byte("junk"), 4096), 0o644)
		}, want: "file is not a database"},
		{name: "a database elsewhere", damage: func(dir string) error { return linkOutside(t, database(dir)) }, want: "path escapes"},
		{name: "files elsewhere", damage: func(dir string) error { return linkOutside(t, filepath.Join(dir, "nix/store")) }, want: "path escapes"},
		{name: "files that are not there", damage: func(dir string) error {
			return os.Remove(filepath.Join(dir, storePath(t, "0", "a").String()))
		}, want: "its files are not there"},
	} {
		t.Run(test.name, func(t *testing.T) {
			temporary := t.TempDir()
			t.Setenv("TMPDIR", temporary)
			dir, _, b := directory(t, "pragma foreign_keys = off; "+test.change)
			if test.damage != nil {
				if err := test.damage(dir); err != nil {
					t.Fatal(err)
				}
			}
			d, err := OpenDirectory(dir)
			if err == nil {
				_, err = d.Closure(t.Context(), b)
				if closeErr := d.Close(); closeErr != nil {
					t.Error(closeErr)
				}
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want %q and where", err, test.want)
			}
			left, err := os.ReadDir(temporary)
			if err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "nixos-closure") }) {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// linkOutside moves what is at name out of the store, and leads to it from there.
func linkOutside(t *testing.T, name string) error {
	outside := filepath.Join(nixtest.TempDir(t), "outside")
	if err := os.Rename(name, outside); err != nil {
		return err
	}
	return os.Symlink(outside, name)
}

// The log counts, also where SQLite may not write beside it.
func TestDirectoryWithLog(t *testing.T) {
	dir, a, b := directory(t, "pragma journal_mode = wal")
	execute(t, database(dir), "update ValidPaths set narSize = 4711") // the log goes when this is closed
	if info, err := os.Stat(database(dir) + "-wal"); err != nil || info.Size() == 0 {
		t.Fatalf("there is no log: %v", err)
	}
	if err := os.Chmod(filepath.Dir(database(dir)), 0o555); err != nil {
		t.Fatal(err)
	}
	got, err := openDirectory(t, dir).Closure(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	want := []nix.PathInfo{
		{Path: a, NarHash: nix.Hash{1}, NarSize: 4711},
		{Path: b, NarHash: nix.Hash{1}, NarSize: 4711, References: []nix.StorePath{a}},
	}
	if diff := cmp.Diff(want, got, comparePaths); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
