package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// Whatever Nix builds, we restore it such that either Nix takes it for a store of its own: nothing missing, nothing else,
// everything whole.
func TestRootIsAStore(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		sources := nixtest.Sample(t)
		pair, other := nixtest.NewKey(t, "test-1"), nixtest.NewKey(t, "test-2")
		for _, root := range []nix.StorePath{
			store.Build(t, filepath.Join(sources, "config/default.nix"), "web-1"),
			store.Build(t, filepath.Join(sources, "config/edge-cases.nix"), "all"),
		} {
			nixtest.Sign(t, store, root, pair, other)
			want := store.Closure(t, root)
			dir := nixtest.TempDir(t)
			restore(t, store, dir, want)
			if left, err := os.ReadDir(filepath.Join(dir, "nix/var/nix/db")); err != nil || len(left) != 2 {
				t.Errorf("beside the database: %v, %v", left, err)
			}

			nixtest.Each(t, func(t *testing.T, reader *nixtest.Nix) {
				restored := reader.OpenStore(t, dir)
				restored.Configure(t, "trusted-public-keys = "+pair.Public)
				if diff := cmp.Diff(want, restored.Closure(t, root), comparePaths); diff != "" {
					t.Errorf("what Nix knows (-want +got)\n%s", diff)
				}
				if diff := cmp.Diff(want, restored.All(t), comparePaths); diff != "" {
					t.Errorf("what Nix knows of all paths (-want +got)\n%s", diff)
				}
				restored.Run(t, "nix-store", "--verify", "--check-contents")
				restored.Run(t, "nix", "store", "verify", "--recursive", "--sigs-needed", "1", root.String())
			})
			entries, err := os.ReadDir(filepath.Join(dir, nix.StoreDir))
			if err != nil {
				t.Fatal(err)
			}
			var there, registered []string
			for _, entry := range entries {
				if entry.Name() != ".links" { // Nix's own
					there = append(there, entry.Name())
				}
			}
			for _, info := range want {
				registered = append(registered, info.Path.Base())
			}
			if diff := cmp.Diff(registered, there); diff != "" {
				t.Errorf("what lies in the store (-registered +there)\n%s", diff)
			}
		}
	})
}

// restore makes a root in dir with paths from store, several at a time.
func restore(t *testing.T, store *nixtest.Store, dir string, infos []nix.PathInfo) {
	t.Helper()
	root, err := CreateRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	var workers errgroup.Group
	workers.SetLimit(4)
	for _, info := range infos {
		workers.Go(func() error {
			r, w := io.Pipe()
			go func() { w.CloseWithError(nar.Dump(w, store.RealPath(info.Path))) }()
			return root.Restore(t.Context(), info.Path, r)
		})
	}
	if err := workers.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := root.Register(t.Context(), infos); err != nil {
		t.Fatal(err)
	}
}

// selectAll is the answer of a database to a query, as text.
func selectAll(t *testing.T, file, query string) (rows []string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	result, err := db.Query(query)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	defer result.Close()
	columns, err := result.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for result.Next() {
		values, pointers := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			pointers[i] = &values[i]
		}
		if err := result.Scan(pointers...); err != nil {
			t.Fatal(err)
		}
		var row []string
		for _, value := range values {
			row = append(row, value.String)
		}
		rows = append(rows, strings.Join(row, " | "))
	}
	return rows
}

func database(dir string) string { return filepath.Join(dir, "nix/var/nix/db/db.sqlite") }

// The schema is that of the Nixes that will open it, and so is its number. (Of
// later migrations, each Nix adds a table when it opens the database.)
func TestSchema(t *testing.T) {
	ours := t.TempDir()
	root, err := CreateRoot(ours)
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Register(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs := n.NewStore(t)
		theirs.Run(t, "nix-store", "--init")
		for _, query := range []string{
			"select m.name, c.* from sqlite_master m, pragma_table_info(m.name) c where m.type = 'table' and m.name != 'SchemaMigrations' order by 1, 2",
			"select m.name, k.* from sqlite_master m, pragma_foreign_key_list(m.name) k where m.type = 'table' and m.name != 'SchemaMigrations' order by 1, 2",
			"select m.name, i.name, i.[unique], i.origin, c.name from sqlite_master m, pragma_index_list(m.name) i, pragma_index_info(i.name) c where m.type = 'table' and m.name != 'SchemaMigrations' order by 1, 2, 5",
			"select name, replace(replace(replace(sql, ' if not exists', ''), char(10), ''), ' ', '') from sqlite_master where type = 'trigger'",
		} {
			want := selectAll(t, database(theirs.Dir), query)
			if len(want) == 0 {
				t.Errorf("Nix's database has nothing of %s", query)
			}
			if diff := cmp.Diff(want, selectAll(t, database(ours), query)); diff != "" {
				t.Errorf("%s\n(-Nix's +ours)\n%s", query, diff)
			}
		}
		want, err := os.ReadFile(filepath.Join(filepath.Dir(database(theirs.Dir)), "schema"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), schemaVersion); diff != "" {
			t.Errorf("number of the schema (-want +got)\n%s", diff)
		}
	})
}

// A closure that holds derivations is registered with what they make, as Nix
// does: it looks nowhere else for that.
func TestRegisterDerivations(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		file := write(t, nixtest.Sample(t), `let
			two = build "two" { outputs = [ "out" "dev" ]; } "mkdir $out $dev";
		in build "with-derivation" { drv = builtins.unsafeDiscardOutputDependency two.drvPath; } "echo $drv > $out"`)
		infos := store.Closure(t, store.Build(t, file, ""))
		dir := nixtest.TempDir(t)
		restore(t, store, dir, infos)

		const query = "select v.path, o.id, o.path from DerivationOutputs o join ValidPaths v on v.id = o.drv order by 1, 2"
		got, valid := selectAll(t, database(dir), query), selectAll(t, database(dir), "select path from ValidPaths")
		var want []string
		for _, row := range selectAll(t, database(store.Dir), query) {
			drv, _, _ := strings.Cut(row, " ")
			for _, path := range valid {
				if path == drv {
					want = append(want, row)
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || len(got) < 2 {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// What a derivation makes can't be known beforehand if it is named by its
// content, and is no output then.
func TestRegisterFloatingDerivation(t *testing.T) {
	file := filepath.Join(t.TempDir(), "drv")
	if err := os.WriteFile(file, []byte(`Derive([("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",[],[("name","floating"),("out","")])`), 0o444); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := nar.Dump(&archive, file); err != nil {
		t.Fatal(err)
	}
	dir := nixtest.TempDir(t)
	root, drv := rootWith(t, dir), storePath(t, "0", "floating.drv")
	if err := root.Restore(t.Context(), drv, &archive); err != nil {
		t.Fatal(err)
	}
	if err := root.Register(t.Context(), []nix.PathInfo{{Path: drv, NarSize: 1}}); err != nil {
		t.Fatal(err)
	}
	if rows := selectAll(t, database(dir), "select * from DerivationOutputs"); len(rows) > 0 {
		t.Errorf("got outputs %q", rows)
	}
}

// The same closure makes the same database, whatever the order of its paths.
func TestRegisterIsDeterministic(t *testing.T) {
	a, b := storePath(t, "0", "a"), storePath(t, "1", "b")
	infos := []nix.PathInfo{{Path: a, NarSize: 1, References: []nix.StorePath{a, b}}, {Path: b, NarSize: 2}}
	var databases [][]byte
	for range 2 {
		dir := nixtest.TempDir(t)
		root := rootWith(t, dir, a, b)
		if err := root.Register(t.Context(), infos); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(database(dir))
		if err != nil {
			t.Fatal(err)
		}
		databases = append(databases, data)
		infos[0], infos[1] = infos[1], infos[0]
	}
	if !bytes.Equal(databases[0], databases[1]) {
		t.Error("two databases of the same paths differ")
	}
}

// rootWith is a root with an empty directory for each path.
func rootWith(t *testing.T, dir string, paths ...nix.StorePath) *Root {
	t.Helper()
	root, err := CreateRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	var empty bytes.Buffer
	if err := nar.Dump(&empty, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if err := root.Restore(t.Context(), path, bytes.NewReader(empty.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func storePath(t *testing.T, digit, name string) nix.StorePath {
	t.Helper()
	path, err := nix.ParseBaseName(strings.Repeat(digit, 32) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// What is registered is what is there, and nothing refers to what isn't; or
// there is no database.
func TestRegisterRefuses(t *testing.T) {
	a, b, drv := storePath(t, "0", "a"), storePath(t, "1", "b"), storePath(t, "2", "c.drv")
	for name, test := range map[string]struct {
		restored []nix.StorePath
		infos    []nix.PathInfo
		want     string
	}{
		"a reference to nowhere":  {[]nix.StorePath{a}, []nix.PathInfo{{Path: a, References: []nix.StorePath{b}}}, a.String() + " refers to " + b.String() + ", which is not there"},
		"a path that isn't there": {[]nix.StorePath{a}, []nix.PathInfo{{Path: a}, {Path: b}}, b.String() + " has not been restored"},
		"a path too many":         {[]nix.StorePath{a, b}, []nix.PathInfo{{Path: a}}, b.Base() + " has been restored, but"},
		"a path twice":            {[]nix.StorePath{a}, []nix.PathInfo{{Path: a}, {Path: a}}, a.String() + " has not been restored, or is named twice"},
		"a derivation that isn't": {[]nix.StorePath{drv}, []nix.PathInfo{{Path: drv}}, "reading the derivation " + drv.String()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := nixtest.TempDir(t)
			err := rootWith(t, dir, test.restored...).Register(t.Context(), test.infos)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
			if left, _ := os.ReadDir(filepath.Dir(database(dir))); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A directory's name may have what means something in URLs.
func TestRootAnywhere(t *testing.T) {
	dir := filepath.Join(nixtest.TempDir(t), "a b?c=d#e%20f")
	a := storePath(t, "0", "a")
	if err := rootWith(t, dir, a).Register(t.Context(), []nix.PathInfo{{Path: a, NarSize: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(database(dir)); err != nil {
		t.Error(err)
	}
}

// A store is not mixed with one that is there.
func TestCreateRootTwice(t *testing.T) {
	dir := t.TempDir()
	if _, err := CreateRoot(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateRoot(dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("got error %v, want os.ErrExist", err)
	}
}

func TestRootEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := nixtest.TempDir(t)
	a := storePath(t, "0", "a")
	root := rootWith(t, dir, a)
	if err := root.Restore(ctx, storePath(t, "1", "b"), strings.NewReader("")); !errors.Is(err, context.Canceled) {
		t.Errorf("Restore: got error %v, want context.Canceled", err)
	}
	if err := root.Register(ctx, []nix.PathInfo{{Path: a}}); !errors.Is(err, context.Canceled) {
		t.Errorf("Register: got error %v, want context.Canceled", err)
	}
}

// What nixpkgs' closureInfo would say is enough for Nix to register a closure.
func TestRegistrationLoads(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		infos := store.Closure(t, store.Build(t, filepath.Join(nixtest.Sample(t), "config/edge-cases.nix"), "link"))

		empty := n.NewStore(t)
		empty.Setenv(t)
		load := exec.Command("nix-store", "--load-db")
		load.Stdin = strings.NewReader(Registration(infos))
		if out, err := load.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for i := range infos {
			infos[i].Deriver, infos[i].Signatures, infos[i].CA = nix.StorePath{}, nil, nix.ContentAddress{}
		}
		if diff := cmp.Diff(infos, empty.All(t), comparePaths); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// The files are nixpkgs', to the byte (pkgs/build-support/closure-info.nix).
func TestClosureInfo(t *testing.T) {
	a, b := storePath(t, "0", "a"), storePath(t, "1", "b")
	infos := []nix.PathInfo{{Path: b, NarSize: 2, References: []nix.StorePath{a, b}, Deriver: storePath(t, "2", "b.drv")}, {Path: a, NarSize: 1}}
	zero := "sha256:" + strings.Repeat("0", 52)
	if diff := cmp.Diff(a.String()+"\n"+b.String()+"\n", StorePaths(infos)); diff != "" {
		t.Errorf("store-paths (-want +got)\n%s", diff)
	}
	want := a.String() + "\n" + zero + "\n1\n\n0\n" +
		b.String() + "\n" + zero + "\n2\n\n2\n" + a.String() + "\n" + b.String() + "\n"
	if diff := cmp.Diff(want, Registration(infos)); diff != "" {
		t.Errorf("registration (-want +got)\n%s", diff)
	}
}

// write writes an expression beside the sample's.
func write(t *testing.T, sources, text string) (file string) {
	t.Helper()
	file = filepath.Join(sources, "config", "test.nix")
	if err := os.WriteFile(file, []byte("with import ./lib.nix;\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}
