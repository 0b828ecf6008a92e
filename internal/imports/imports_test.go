package imports

import (
	"bytes"
	"crypto/sha256"
	"database/sql"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/concourse/go-archive/tarfs"
	"github.com/concourse/go-archive/tgzfs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/store"
)

var comparePaths = cmp.Options{cmp.AllowUnexported(nix.StorePath{}, nix.ContentAddress{}), cmpopts.EquateEmpty()}

// secretKey makes a key of that name.
func secretKey(t *testing.T, name string) nix.SecretKey {
	t.Helper()
	key, err := nix.ParseSecretKey(nixtest.NewKey(t, name).Secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// open opens a closure, which is closed when the test ends, and then has left
// nothing behind.
func open(t *testing.T, name string, root nix.StorePath) *Closure {
	t.Helper()
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	closure, err := Open(t.Context(), name, root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closure.Close(); err != nil {
			t.Error(err)
		}
		isEmpty(t, temporary)
	})
	return closure
}

func isEmpty(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// push pushes a closure that was handed over into a cache, and returns what
// that one then has.
func push(t *testing.T, to *cache.Cache, c *Closure) []nix.PathInfo {
	t.Helper()
	_, err := to.Push(t.Context(), cache.PushRequest{Root: c.Root, Infos: c.Infos, Source: c.Source})
	if err != nil {
		t.Fatal(err)
	}
	closure, err := to.Closure(t.Context(), c.Root)
	if err != nil {
		t.Fatal(err)
	}
	infos := closure.Infos()
	slices.SortFunc(infos, func(a, b nix.PathInfo) int { return a.Path.Compare(b.Path) })
	return infos
}

// Whatever Nix leaves for a later step, in whatever wrapping, arrives in the
// cache as Nix knows it, signed by us.
func TestFromNix(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		sources := nixtest.Sample(t)
		root := store.Build(t, filepath.Join(sources, "config/default.nix"), "web-1")
		key := secretKey(t, "ours-1")
		want := store.Closure(t, root)
		for i := range want {
			want[i].Sign([]nix.SecretKey{key})
		}
		out := nixtest.TempDir(t) // what the earlier step leaves
		store.Run(t, "nix", "copy", "--to", "file://"+out+"/xz", root.String())
		store.Run(t, "nix", "copy", "--to", "file://"+out+"/zstd?compression=zstd", root.String())

		pack(t, tarfs.Compress, out, "zstd", out+"/cache.tar")
		pack(t, tarfs.Compress, filepath.Dir(store.Dir), filepath.Base(store.Dir), out+"/store.tar")
		store.Run(t, "nix-store", "--optimise") // makes hard links
		pack(t, tgzfs.Compress, store.Dir, "nix", out+"/optimised.tgz")

		for _, name := range []string{store.Dir, out + "/xz", out + "/zstd", out + "/cache.tar", out + "/store.tar", out + "/optimised.tgz"} {
			t.Run(filepath.Base(name), func(t *testing.T) {
				closure := open(t, name, nix.StorePath{})
				if closure.Root != root {
					t.Fatalf("took %s for the root, want %s", closure.Root, root)
				}
				to := cache.New(blob.NewMemory(), cache.Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}})
				if diff := cmp.Diff(want, push(t, to, closure), comparePaths); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		}

		// A second closure: neither is more the root than the other.
		all := store.Build(t, filepath.Join(sources, "config/edge-cases.nix"), "all")
		store.Run(t, "nix", "copy", "--to", "file://"+out+"/two?compression=none", root.String(), all.String())
		pack(t, tarfs.Compress, store.Dir, "nix", out+"/two.tar")
		for _, name := range []string{store.Dir, out + "/two", out + "/two.tar"} {
			t.Run(filepath.Base(name)+" of two", func(t *testing.T) {
				t.Setenv("TMPDIR", t.TempDir())
				_, err := Open(t.Context(), name, nix.StorePath{})
				if err == nil || !strings.Contains(err.Error(), root.String()) || !strings.Contains(err.Error(), all.String()) || len(hint.Of(err)) == 0 {
					t.Errorf("got %v, %q; want both named and a hint", err, hint.Of(err))
				}
				isEmpty(t, os.Getenv("TMPDIR"))
				want := store.Closure(t, all)
				if diff := cmp.Diff(want, push(t, cache.New(blob.NewMemory(), cache.Config{}), open(t, name, all)), comparePaths); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			})
		}
	})
}

// pack makes an archive of a file in a directory, as a task would.
func pack(t *testing.T, compress func(to io.Writer, dir string, names ...string) error, dir, name, to string) {
	t.Helper()
	file, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(compress(file, dir, name), file.Close()); err != nil {
		t.Fatal(err)
	}
}

// made is a store of two paths, of which b refers to a, in a directory, and the
// same in a binary cache, signed by a stranger.
type made struct {
	store, cache string
	a, b         nix.StorePath
	stranger     nix.SecretKey
}

func makeBoth(t *testing.T) made {
	t.Helper()
	dir := nixtest.TempDir(t)
	m := made{store: filepath.Join(dir, "store"), cache: filepath.Join(dir, "cache"), stranger: secretKey(t, "stranger-1")}
	root, err := store.CreateRoot(m.store)
	if err != nil {
		t.Fatal(err)
	}
	var infos []nix.PathInfo
	var references []nix.StorePath
	for _, name := range []string{"a", "b"} {
		path, err := nix.ParseBaseName(strings.Repeat(name, 32) + "-" + name)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(strings.Repeat(name, 1000)), 0o644); err != nil {
			t.Fatal(err)
		}
		var archive bytes.Buffer
		if err := nar.Dump(&archive, file); err != nil {
			t.Fatal(err)
		}
		info := nix.PathInfo{Path: path, NarHash: sha256.Sum256(archive.Bytes()), NarSize: int64(archive.Len()), References: references}
		info.Sign([]nix.SecretKey{m.stranger})
		if err := root.Restore(t.Context(), path, &archive); err != nil {
			t.Fatal(err)
		}
		infos = append(infos, info)
		references = []nix.StorePath{path}
	}
	if err := root.Register(t.Context(), infos); err != nil {
		t.Fatal(err)
	}
	m.a, m.b = infos[0].Path, infos[1].Path
	push(t, cache.New(blob.NewDirectory(m.cache), cache.Config{Compression: "none"}), open(t, m.store, m.b))
	return m
}

// A pipeline's own paths need nobody's signature. What they become in the cache
// does, and a stranger's doesn't count there.
func TestSignatures(t *testing.T) {
	ours := secretKey(t, "ours-1")
	made := makeBoth(t)
	for name, dir := range map[string]string{"store": made.store, "cache": made.cache} {
		t.Run(name, func(t *testing.T) {
			closure := open(t, dir, nix.StorePath{})
			request := cache.PushRequest{Root: closure.Root, Infos: closure.Infos, Source: closure.Source}
			place := blob.NewMemory()
			_, err := cache.New(place, cache.Config{RequireSigs: true, PublicKeys: nix.Keys{ours.Public()}}).Push(t.Context(), request)
			if err == nil || !strings.Contains(err.Error(), "it is signed by stranger-1") {
				t.Errorf("pushed without a key: %v", err)
			}
			for _, info := range push(t, cache.New(place, cache.Config{RequireSigs: true, SigningKeys: []nix.SecretKey{ours}}), closure) {
				if !info.SignedBy(nix.Keys{ours.Public()}) || !info.SignedBy(nix.Keys{made.stranger.Public()}) {
					t.Errorf("%s has the signatures %v", info.Path, info.Signatures)
				}
			}
		})
	}
}

// Content that isn't what its store or its cache says never becomes visible,
// nor does anything that refers to it.
func TestDamaged(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, m made) (dir string)
		want   string
	}{
		{"a store's files", func(t *testing.T, m made) string {
			file := filepath.Join(m.store, m.a.String())
			return changed(t, m.store, file, []byte("a"), []byte("b"))
		}, "NarHash"},
		{"a store's files, longer", func(t *testing.T, m made) string {
			file := filepath.Join(m.store, m.a.String())
			return changed(t, m.store, file, []byte("a"), bytes.Repeat([]byte("a"), 10000))
		}, "more than the"},
		{"a store's database", func(t *testing.T, m made) string {
			db, err := sql.Open("sqlite", filepath.Join(m.store, "nix/var/nix/db/db.sqlite"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec("update ValidPaths set hash = ? where path = ?", nix.Hash{1}.String(), m.a.String()); err != nil {
				t.Fatal(err)
			}
			return m.store
		}, "NarHash"},
		{"a cache's file", func(t *testing.T, m made) string {
			return changed(t, m.cache, fileOf(t, m, m.a), []byte("aaaa"), []byte("aaab"))
		}, "NarHash"},
		{"a cache's file that is another path's", func(t *testing.T, m made) string {
			narinfo := filepath.Join(m.cache, m.a.HashPart()+".narinfo")
			theirs := strings.TrimPrefix(fileOf(t, m, m.b), m.cache+"/")
			ours := strings.TrimPrefix(fileOf(t, m, m.a), m.cache+"/")
			if err := os.RemoveAll(filepath.Join(m.cache, "closures")); err != nil { // the manifest knows better
				t.Fatal(err)
			}
			return changed(t, m.cache, narinfo, []byte("URL: "+ours), []byte("URL: "+theirs))
		}, "NarHash"},
		{"a cache that lacks a file", func(t *testing.T, m made) string {
			if err := os.Remove(fileOf(t, m, m.a)); err != nil {
				t.Fatal(err)
			}
			return m.cache
		}, "no such file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			made := makeBoth(t)
			closure := open(t, test.damage(t, made), made.b)
			place := blob.NewMemory()
			_, err := cache.New(place, cache.Config{}).Push(t.Context(), cache.PushRequest{Root: closure.Root, Infos: closure.Infos, Source: closure.Source})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), made.a.String()) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			for info, err := range place.List(t.Context(), "") {
				if err != nil || strings.HasSuffix(info.Key, ".narinfo") || strings.HasPrefix(info.Key, "closures/") {
					t.Errorf("became visible: %s %v", info.Key, err)
				}
			}
		})
	}
}

// changed replaces part of a file, and returns dir.
func changed(t *testing.T, dir, file string, old, new []byte) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, old) {
		t.Fatalf("%s doesn't hold %q", file, old)
	}
	data = bytes.Replace(data, old, new, 1)
	if err := errors.Join(os.Chmod(file, 0o644), os.WriteFile(file, data, 0o644)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fileOf is the file of a path in the cache.
func fileOf(t *testing.T, m made, path nix.StorePath) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(m.cache, path.HashPart()+".narinfo"))
	if err != nil {
		t.Fatal(err)
	}
	ni, err := cache.ParseNarInfo(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(m.cache, ni.URL)
}

// What can be told before anything is pushed is an error of Open.
func TestOpenRefuses(t *testing.T) {
	other, err := nix.ParseBaseName(strings.Repeat("1", 32) + "-other")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		make func(t *testing.T, m made) (string, error)
		root nix.StorePath
		want string
	}{
		{"nothing", func(t *testing.T, m made) (string, error) { return t.TempDir(), nil }, nix.StorePath{}, "neither a binary cache"},
		{"what isn't there", func(t *testing.T, m made) (string, error) { return m.store + "s", nil }, nix.StorePath{}, "no such file"},
		{"a device", func(t *testing.T, m made) (string, error) { return os.DevNull, nil }, nix.StorePath{}, "neither a directory nor an archive"},
		{"something else", func(t *testing.T, m made) (string, error) {
			dir := t.TempDir()
			return dir, os.WriteFile(filepath.Join(dir, "result"), nil, 0o644)
		}, nix.StorePath{}, "neither a binary cache"},
		{"a store beside something else", func(t *testing.T, m made) (string, error) { return filepath.Dir(m.store), nil }, nix.StorePath{}, "neither a binary cache"},
		{"an archive of nothing", func(t *testing.T, m made) (string, error) {
			name := filepath.Join(t.TempDir(), "empty.tgz")
			return name, os.WriteFile(name, gzipped(t, archive(t)), 0o644)
		}, nix.StorePath{}, "neither a binary cache"},
		{"an empty file", func(t *testing.T, m made) (string, error) {
			name := filepath.Join(t.TempDir(), "empty")
			return name, os.WriteFile(name, nil, 0o644)
		}, nix.StorePath{}, "neither a binary cache"},
		{"an archive with symlinks out of it", func(t *testing.T, m made) (string, error) {
			name := filepath.Join(t.TempDir(), "links.tar")
			return name, os.WriteFile(name, archive(t, link('2', "nix", m.store+"/nix")), 0o644)
		}, nix.StorePath{}, "path escapes"},
		{"a store without that root", func(t *testing.T, m made) (string, error) { return m.store, nil }, other, other.String() + " is not in the store"},
		{"a cache without that root", func(t *testing.T, m made) (string, error) { return m.cache, nil }, other, other.String() + " is not in file:"},
		{"a cache without a reference", func(t *testing.T, m made) (string, error) {
			return m.cache, errors.Join(os.RemoveAll(filepath.Join(m.cache, "closures")), os.Remove(filepath.Join(m.cache, m.a.HashPart()+".narinfo")))
		}, nix.StorePath{}, "is not whole"},
		{"a store without the files of a reference", func(t *testing.T, m made) (string, error) {
			return m.store, os.Remove(filepath.Join(m.store, m.a.String()))
		}, nix.StorePath{}, "its files are not there"},
		{"a cache of nothing", func(t *testing.T, m made) (string, error) {
			dir := t.TempDir()
			return dir, os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"), 0o644)
		}, nix.StorePath{}, "no closure in it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			name, err := test.make(t, makeBoth(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Setenv("TMPDIR", t.TempDir())
			_, err = Open(t.Context(), name, test.root)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			isEmpty(t, os.Getenv("TMPDIR"))
		})
	}
}
