package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A witness looks at a cache again and again, while others write to it, and
// holds what it sees against the promises. It shares no code with the programs
// but the arithmetic of hashes.
type witness struct {
	cache  place
	key    signature.PublicKey
	sound  map[string]bool   // NARs that were read whole
	seen   map[string]string // by the key of the narinfo: what it says, signatures aside
	newest uint64
}

func newWitness(r *rig) *witness {
	key, err := signature.ParsePublicKey(r.key.Public)
	if err != nil {
		panic(err)
	}
	return &witness{cache: r.cache, key: key, sound: map[string]bool{}, seen: map[string]string{}}
}

// look returns every promise that it finds broken.
func (w *witness) look() error {
	infos, err := matching(w.cache, "*.narinfo")
	if err != nil {
		return err
	}
	var broken []error
	for _, info := range slices.Sorted(maps.Keys(infos)) {
		if err := w.narinfo(info, infos); err != nil {
			broken = append(broken, fmt.Errorf("%s: %w", info, err))
		}
	}
	return errors.Join(append(broken, w.pointer())...)
}

// narinfo: what it names is there, whole, and so is all that it references
// (promise 1); it says what it said before, and its NAR is what it says
// (promise 2).
func (w *witness) narinfo(key string, listed map[string]string) error {
	text, err := w.cache.read(key)
	if err != nil {
		return err
	}
	info, err := narinfo.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	if !signature.VerifyFirst(info.Fingerprint(), info.Signatures, []signature.PublicKey{w.key}) {
		return errors.New("no signature by the key of the cache")
	}
	for _, reference := range info.References {
		key := reference[:32] + ".narinfo"
		if _, ok := listed[key]; ok {
			continue
		}
		if _, err := w.cache.read(key); err != nil {
			return fmt.Errorf("what it references is missing: %w", err)
		}
	}
	said, _, _ := strings.Cut(string(text), "Sig: ")
	if before, ok := w.seen[key]; ok && before != said {
		return fmt.Errorf("it said %q, and now says %q", before, said)
	}
	w.seen[key] = said
	if w.sound[info.URL] {
		return nil
	}
	if err := w.nar(info); err != nil {
		return fmt.Errorf("%s: %w", info.URL, err)
	}
	w.sound[info.URL] = true
	return nil
}

func (w *witness) nar(info *narinfo.NarInfo) error {
	if info.Compression != "zstd" {
		return fmt.Errorf("compressed with %q, want zstd", info.Compression)
	}
	data, err := w.cache.read(info.URL)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); uint64(len(data)) != info.FileSize || !bytes.Equal(sum[:], info.FileHash.Digest()) {
		return fmt.Errorf("the file is %d bytes of SHA-256 %x, want %d and %x", len(data), sum, info.FileSize, info.FileHash.Digest())
	}
	decoder, err := zstd.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer decoder.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, decoder)
	if err != nil {
		return err
	}
	if sum := hash.Sum(nil); uint64(size) != info.NarSize || !bytes.Equal(sum, info.NarHash.Digest()) {
		return fmt.Errorf("the NAR is %d bytes of SHA-256 %x, want %d and %x", size, sum, info.NarSize, info.NarHash.Digest())
	}
	return nil
}

// generations are the numbers and paths of the pointer, newest first, as they
// lie in the cache.
func (w *witness) generations() ([]generation, error) {
	text, err := w.cache.read("pointers/web-1.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var pointer struct{ Generations []generation }
	err = json.Unmarshal(text, &pointer)
	return pointer.Generations, err
}

type generation struct {
	Generation uint64
	Path       string
}

// pointer: each generation's closure is there (promise 1 says that a narinfo
// stands for it), and numbers only grow (promise 3).
func (w *witness) pointer() error {
	generations, err := w.generations()
	if err != nil || len(generations) == 0 {
		return err
	}
	for i, g := range generations {
		if i > 0 && g.Generation >= generations[i-1].Generation {
			return fmt.Errorf("generation %d comes after %d", generations[i-1].Generation, g.Generation)
		}
		if _, err := w.cache.read(hashPart(g.Path) + ".narinfo"); err != nil {
			return fmt.Errorf("generation %d: %w", g.Generation, err)
		}
	}
	if generations[0].Generation < w.newest {
		return fmt.Errorf("the newest generation was %d, and is %d", w.newest, generations[0].Generation)
	}
	w.newest = generations[0].Generation
	return nil
}

func hashPart(path string) string { return strings.TrimPrefix(path, nix.StoreDir+"/")[:32] }

// plain is what a host reads.
func plain(t *testing.T, r *rig) string {
	t.Helper()
	text, err := r.cache.read("pointers/web-1")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(text), "\n")
}

// realise does what a host does: stock Nix fetches the path into an empty
// store, and accepts nothing that isn't signed. It returns what it then has.
func realise(t testing.TB, cache string, key nixtest.Key, n *nixtest.Nix, path string) []nix.PathInfo {
	t.Helper()
	host := n.NewStore(t)
	host.Configure(t, "substituters = "+cache+"\nrequire-sigs = true\ntrusted-public-keys = "+key.Public)
	host.Run(t, "nix-store", "--realise", path)
	host.Run(t, "nix-store", "--verify", "--check-contents")
	root, err := nix.ParseStorePath(path)
	if err != nil {
		t.Fatal(err)
	}
	return host.Closure(t, root)
}

// restored holds what in left in a directory against stock Nix: its store is
// whole, and nothing in it is unknown to its database. It returns what it has.
func restored(t testing.TB, n *nixtest.Nix, dir, path string) []nix.PathInfo {
	t.Helper()
	store := n.OpenStore(t, filepath.Join(dir, "rootfs"))
	store.Run(t, "nix-store", "--verify", "--check-contents")
	root, err := nix.ParseStorePath(path)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(store.Dir, nix.StoreDir))
	if err != nil {
		t.Fatal(err)
	}
	closure := store.Closure(t, root)
	var registered, there []string
	for _, info := range closure {
		registered = append(registered, info.Path.Base())
	}
	for _, entry := range entries {
		if entry.Name() != ".links" { // Nix's own
			there = append(there, entry.Name())
		}
	}
	if diff := cmp.Diff(registered, there); diff != "" {
		t.Errorf("files in the store (-registered +there):\n%s", diff)
	}
	return closure
}

// facts are what all stores that have these paths must agree on.
func facts(infos []nix.PathInfo) []string {
	var lines []string
	for _, info := range infos {
		lines = append(lines, fmt.Sprintf("%s, deriver %q, content address %q", info.Fingerprint(), info.Deriver, info.CA))
	}
	return lines
}
