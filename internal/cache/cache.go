// Package cache is the engine of a Nix binary cache: it pushes closures into
// one, finds out what one holds, and fetches closures from one.
//
// A cache is a [blob.Store] laid out as docs/formats.md says, so that stock Nix
// substitutes from it. The bytes of NARs come from a [Source] and go to a
// [Sink]; the package reads no local store and writes no files itself.
//
// # What is promised
//
// The order of writes: a NAR before its narinfo, the narinfos of all references
// before the narinfo that has them, all narinfos before the manifest. Whoever
// is killed leaves a valid cache behind, and pushing again finishes it.
//
// The identity of bytes: NarHash is computed on the very bytes that are
// compressed, FileHash on the very bytes that are sent, both before the narinfo
// is written. No NAR is overwritten, and a narinfo that exists is only ever
// given further signatures, by compare-and-swap.
//
// Distrust: nothing that comes from a cache is believed before it is verified.
// A narinfo counts as present only if it is acceptable: signed by a trusted key
// or, failing that, content-addressed in a way that can be recomputed. A NAR
// must unpack to the hash and the size that its narinfo announces, and is never
// read past them.
//
// Bounded memory: see the constants in upload.go, compress.go, fetch.go and
// inorder.go; no buffer grows with a NAR or a closure, but for the closure's
// narinfos themselves.
package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Config says whom a cache's users trust and how its writers write.
type Config struct {
	PublicKeys  nix.Keys        // whose signatures make a path acceptable, besides those of SigningKeys
	RequireSigs bool            // if false, signatures are not looked at
	SigningKeys []nix.SecretKey // each signs every path that is pushed

	// Optional says that the cache can be done without: if it can't be reached, it
	// is taken for empty, and so is a narinfo that isn't valid for missing. Warn is
	// told so, once.
	Optional bool
	Warn     func(error) // may be nil

	// Substituters are further caches, each with its own trust, that closures
	// may be completed from, in this order.
	Substituters []*Cache

	Compression      string // of NARs: "zstd", "xz" or "none"; empty is zstd
	CompressionLevel int    // in the terms of the compression; 0 is its default

	// For a nix-cache-info that has to be written; nothing is said of a
	// preference that is nil.
	WantMassQuery *bool
	Priority      *int
}

// A Cache is a binary cache. Its methods may be called from several goroutines.
type Cache struct {
	store     blob.Store
	config    Config
	away      atomic.Pointer[error] // why it, which is optional, can't be asked
	gone      sync.Map              // the hash parts of paths that it, which is optional, has announced and can't give
	goneCount atomic.Int32
	odd       atomic.Bool           // it is optional, and has a narinfo that isn't valid
	denied    atomic.Pointer[error] // what it last said of a path that it denies; see absent
	accepted  accepted
}

// New returns the cache that lies in store. It makes no request.
func New(store blob.Store, config Config) *Cache {
	if config.Compression == "" {
		config.Compression = "zstd"
	}
	config.PublicKeys = slices.Clone(config.PublicKeys)
	for _, key := range config.SigningKeys {
		config.PublicKeys = append(config.PublicKeys, key.Public())
	}
	return &Cache{store: store, config: config}
}

// String names the cache in messages.
func (c *Cache) String() string { return c.store.String() }

// URL is the cache's URL as it stands in nix.conf.
func (c *Cache) URL() string { return c.store.Location().String() }

// Substituters are the further caches that closures may be completed from.
func (c *Cache) Substituters() []*Cache { return slices.Clone(c.config.Substituters) }

const (
	infoKey      = "nix-cache-info"
	maxInfoSize  = 64 << 10
	volatile     = "no-cache"
	immutable    = "public, max-age=31536000, immutable"
	infoType     = "text/x-nix-cache-info"
	narinfoType  = "text/x-nix-narinfo"
	narType      = "application/x-nix-nar"
	manifestType = "text/x-nix-narinfo"
)

// ensureInfo writes nix-cache-info if there is none, and refuses a cache for
// another store directory, whose paths would be of no use in this one. It says
// whether it has just begun the cache, which then has no paths yet.
func (c *Cache) ensureInfo(ctx context.Context) (begun bool, err error) {
	data, _, err := blob.ReadAll(ctx, c.store, infoKey, maxInfoSize, blob.GetOptions{})
	switch {
	case errors.Is(err, blob.ErrNotExist):
		err = c.create(ctx, infoKey, c.info(), infoType, volatile)
		if errors.Is(err, blob.ErrPrecondition) {
			return false, nil // somebody else has just written it
		}
		return err == nil, err
	case err != nil:
		return false, err
	}
	for line := range strings.Lines(string(data)) {
		if dir, ok := strings.CutPrefix(strings.TrimSpace(line), "StoreDir: "); ok && dir != nix.StoreDir {
			return false, hint.With(fmt.Errorf("%s is a cache for the store directory %s, not %s", c, dir, nix.StoreDir),
				"a closure's hashes depend on its store directory: use another cache")
		}
	}
	return false, nil
}

// Exists says whether there is a cache, by its nix-cache-info, which every Nix cache
// has.
func (c *Cache) Exists(ctx context.Context) (bool, error) {
	data, _, err := blob.ReadAll(ctx, c.store, infoKey, maxInfoSize, blob.GetOptions{})
	if errors.Is(err, blob.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "StoreDir:") {
			return true, nil
		}
	}
	return false, nil // a web server that answers everything with a page
}

func (c *Cache) info() string {
	var b strings.Builder
	fmt.Fprintf(&b, "StoreDir: %s\n", nix.StoreDir)
	if want := c.config.WantMassQuery; want != nil {
		n := 0
		if *want {
			n = 1
		}
		fmt.Fprintf(&b, "WantMassQuery: %d\n", n)
	}
	if c.config.Priority != nil {
		fmt.Fprintf(&b, "Priority: %d\n", *c.config.Priority)
	}
	return b.String()
}

// create writes an object that must not be there yet, with ErrPrecondition if
// it is. A store without conditional writes has, by its user's word, only one
// writer, who has looked before.
func (c *Cache) create(ctx context.Context, key, text, contentType, cacheControl string) error {
	return c.put(ctx, key, text, blob.PutOptions{
		IfAbsent:     c.store.Capabilities().Conditional,
		ContentType:  contentType,
		CacheControl: cacheControl,
	})
}

func (c *Cache) put(ctx context.Context, key, text string, opts blob.PutOptions) error {
	_, err := c.store.Put(ctx, key, strings.NewReader(text), opts)
	return err
}
