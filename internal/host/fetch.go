package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/substituter"
)

// fetch makes the generation's closure valid in the store.
//
// Nix takes it from us, over loopback: we read the cache side by side, whatever
// kind it is and whatever it wants to see before it lets somebody read, and Nix
// checks the signatures again and registers the paths. If that fails for a reason
// that isn't the cache's, Nix is asked to fetch by what its own nix.conf says.
func (r *run) fetch(ctx context.Context, g pointer.Generation) error {
	store, err := r.openStore(ctx)
	if err != nil {
		return err
	}
	// The collector takes no path that a root names; this one is there since the
	// generation was first read, unless somebody has removed it.
	if err := r.config.addRoot(rootName(r.state.Pointer, g.Number), g.Path); err != nil {
		return err
	}
	invalid, err := store.Invalid(ctx, g.Path)
	if err != nil || len(invalid) == 0 {
		return err
	}
	err = r.fetchByUs(ctx, g)
	var e *ended
	if err == nil || ctx.Err() != nil || errors.As(err, &e) {
		return err
	}
	r.log("%v; asking Nix to fetch by its own settings", err)
	if fallback := store.Substitute(ctx, g.Path); fallback != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return ends(Unreachable, idOf(g), "%s can't be fetched: %v", r.nameOf(g), errors.Join(err, fallback))
	}
	return nil
}

// fetchByUs serves the cache to Nix while it fetches.
func (r *run) fetchByUs(ctx context.Context, g pointer.Generation) error {
	closure, err := r.host.Cache.Closure(ctx, g.Path)
	if err != nil {
		return err
	}
	if got := closure.RootInfo().NarHash; got != g.NarHash {
		return ends(Refused, idOf(g), "the cache has other files under %s than %s was: their NarHash is %s, and was %s",
			g.Path, r.nameOf(g), got, g.NarHash)
	}
	missing, size, err := r.missing(ctx, closure)
	if err != nil {
		return err
	}
	if err := r.checkRoom(idOf(g), size); err != nil {
		return err
	}
	r.log("fetching %d of %d paths, %d MiB unpacked", len(missing), len(closure.Paths), size>>20)
	caches := append([]*cache.Cache{r.host.Cache}, r.host.Cache.Substituters()...)
	var cause atomic.Pointer[error] // what Nix is not told, or doesn't say
	server, err := substituter.Serve(ctx, func(err error) { cause.Store(&err) }, caches...)
	if err != nil {
		return err
	}
	defer server.Close()
	server.Know(closure)
	fetching, err := nixcmd.Open(ctx, nixcmd.Options{Settings: nixcmd.Settings{
		Substituters: server.URLs(),
		PublicKeys:   server.PublicKeys(),
	}})
	if err != nil {
		return err
	}
	defer fetching.Close()
	err = fetching.Substitute(ctx, g.Path)
	if why := cause.Load(); err != nil && why != nil {
		return *why
	}
	return err
}

// missing are the paths of a closure that the store lacks, and how large they are.
func (r *run) missing(ctx context.Context, closure *cache.Closure) ([]nix.StorePath, int64, error) {
	sizes := make(map[nix.StorePath]int64, len(closure.Paths))
	paths := make([]nix.StorePath, len(closure.Paths))
	for i, ni := range closure.Paths {
		paths[i] = ni.Path
		sizes[ni.Path] = ni.NarSize
	}
	missing, err := r.store.Invalid(ctx, paths...)
	var size int64
	for _, path := range missing {
		size += sizes[path]
	}
	return missing, size, err
}

// checkRoom ends the run if the store's file system has no room for so many
// bytes more.
func (r *run) checkRoom(id ID, size int64) error {
	dir := r.store.RealPath(id.Path)
	free, err := freeBytes(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != "/" { // the store may have nothing yet
		dir = filepath.Dir(dir)
		free, err = freeBytes(dir)
	}
	if err != nil {
		return err
	}
	if free < size+r.config.KeepFree {
		return ends(Waiting, id, "there is no room for %s: it takes %d MiB, %d MiB are to stay free, and %s has %d MiB",
			r.idName(id), size>>20, r.config.KeepFree>>20, dir, free>>20)
	}
	return nil
}

// checkBootRoom ends the run if a file system with boot files, where there is one
// of its own, has no room for another kernel and initrd.
func (r *run) checkBootRoom(id ID, old System) error {
	var size int64
	for _, name := range bootFiles {
		target, err := storePathFile(r.store, id.Path, name)
		if err != nil {
			return err
		}
		if had, err := storePathFile(r.store, old.Profile, name); !old.Profile.IsZero() && (err != nil || had == target) {
			if err != nil {
				return err
			}
			continue // it is there already
		}
		if info, err := os.Stat(target); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
	}
	if size == 0 {
		return nil
	}
	for _, dir := range r.config.Boot {
		free, err := freeBytes(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if free < size+1<<20 {
			return ends(Waiting, id, "there is no room in %s for the kernel and initrd of %s: they take %d KiB, and %d KiB are free",
				dir, r.idName(id), size>>10, free>>10)
		}
	}
	return nil
}
