package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// What we push, each Nix realises, asking for signatures; and what in restores
// is, for each Nix, what was pushed: every path with its hash, size, references,
// deriver, content address and a signature.
func TestStockNixReadsWhatWePush(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		inEachPlace(t, func(t *testing.T, cache place) { testStockNixReads(t, newRig(t, n, cache)) })
	})
}

func testStockNixReads(t *testing.T, r *rig) {
	for name, path := range map[string]nix.StorePath{
		"system":     r.nextSystem(t, false),
		"edge-cases": r.store.Build(t, filepath.Join(r.sources, "config", "edge-cases.nix"), "all"),
	} {
		v := must[put](t)(answer[put](r.out(path))).Version
		pushed := facts(r.store.Closure(t, path))
		t.Run(name, func(t *testing.T) {
			nixtest.Each(t, func(t *testing.T, reader *nixtest.Nix) {
				for _, cache := range r.cache.substituters(reader) {
					if diff := cmp.Diff(pushed, facts(realise(t, cache, r.key, reader, v.Path))); diff != "" {
						t.Errorf("what Nix realises from %s (-pushed +realised):\n%s", cache, diff)
					}
				}
				checkRestored(t, r, reader, v, pushed)

				dir := nixtest.TempDir(t)
				get := call("in", dir, []string{}, map[string]any{"source": r.follower(), "version": v, "params": map[string]string{"format": "cache"}})
				must[put](t)(answer[put](get))
				if diff := cmp.Diff(pushed, facts(realise(t, "file://"+filepath.Join(dir, "cache"), r.key, reader, v.Path))); diff != "" {
					t.Errorf("what Nix realises from the cache that in made (-pushed +realised):\n%s", diff)
				}
			})
		})
	}
}

// What each Nix pushes, in whichever compression, in restores, with or without
// a manifest, and with narinfos that don't say what the file is.
func TestWeReadWhatStockNixPushes(t *testing.T) {
	t.Parallel()
	nixtest.Each(t, func(t *testing.T, writer *nixtest.Nix) {
		r := newRig(t, writer, nil)
		path := r.store.Build(t, filepath.Join(r.sources, "config", "edge-cases.nix"), "all")
		pushed := facts(r.store.Closure(t, path))
		key := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(key, []byte(r.key.Secret), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, compression := range []string{"xz", "zstd", "bzip2", "none"} {
			t.Run(compression, func(t *testing.T) {
				cache := t.TempDir()
				r.cache = directory(cache)
				r.store.Run(t, "nix", "copy", "--to", fmt.Sprintf("file://%s?compression=%s&secret-key=%s", cache, compression, key), path.String())
				before := narinfos(t, cache)
				v := must[put](t)(answer[put](r.out(path))).Version
				if diff := cmp.Diff(before, narinfos(t, cache)); diff != "" {
					t.Errorf("a put of what is there has changed it (-before +after):\n%s", diff)
				}
				checkRestored(t, r, writer, v, pushed)

				if err := os.RemoveAll(filepath.Join(cache, "closures")); err != nil {
					t.Fatal(err)
				}
				fileHash := regexp.MustCompile(`(?m)^File(Hash|Size): .*\n`)
				for name, text := range before {
					if err := os.WriteFile(name, []byte(fileHash.ReplaceAllString(text, "")), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				checkRestored(t, r, writer, v, pushed)
			})
		}
	})
}

// checkRestored gets a version and compares what a Nix finds with what was
// pushed.
func checkRestored(t *testing.T, r *rig, reader *nixtest.Nix, v version, pushed []string) {
	t.Helper()
	dir := nixtest.TempDir(t)
	must[put](t)(answer[put](r.in(dir, v)))
	got := restored(t, reader, dir, v.Path)
	if diff := cmp.Diff(pushed, facts(got)); diff != "" {
		t.Errorf("what in restored (-pushed +restored):\n%s", diff)
	}
	key, err := nix.ParsePublicKey(r.key.Public)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range got {
		if !info.SignedBy(nix.Keys{key}) {
			t.Errorf("%s was restored without its signature", info.Path)
		}
	}
}

// narinfos are the texts of all the narinfos in a cache, by file.
func narinfos(t *testing.T, cache string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*.narinfo"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no narinfos in %s: %v", cache, err)
	}
	texts := map[string]string{}
	for _, file := range files {
		texts[file] = string(must[[]byte](t)(os.ReadFile(file)))
	}
	return texts
}

// What stock Nix pushes to a bucket, in restores from there. (Those that we have
// sign no requests, so everybody may write to this bucket.)
func TestWeReadWhatStockNixPushesToBucket(t *testing.T) {
	t.Parallel()
	cache := newBucket(t, s3test.Versitygw(t))
	cache.allowEverybody(t, "s3:*")
	n := nixtest.Current(t)
	r := newRig(t, n, cache)
	path := r.store.Build(t, filepath.Join(r.sources, "config", "edge-cases.nix"), "all")
	pushed := facts(r.store.Closure(t, path))
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(r.key.Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	r.store.Run(t, "nix", "copy", "--to", cache.s3URL()+"&secret-key="+key, path.String())
	before := must[map[string]string](t)(matching(cache, "*.narinfo"))
	if len(before) == 0 {
		t.Fatal("Nix pushed nothing")
	}

	v := must[put](t)(answer[put](r.out(path))).Version
	after := must[map[string]string](t)(matching(cache, "*.narinfo"))
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("a put of what is there has changed it (-before +after):\n%s", diff)
	}
	checkRestored(t, r, n, v, pushed)
}
