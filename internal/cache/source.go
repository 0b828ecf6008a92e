package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Source returns the NARs of a closure of this cache, for pushing them into
// another one. They are verified on the way. Where both caches have the same
// compression, the files are handed over as they are.
func (c *Cache) Source(closure *Closure) Source {
	s := &cacheSource{c, make(map[nix.StorePath]*NarInfo, len(closure.Paths))}
	for i := range closure.Paths {
		s.narinfos[closure.Paths[i].Path] = &closure.Paths[i]
	}
	return s
}

type cacheSource struct {
	cache    *Cache
	narinfos map[nix.StorePath]*NarInfo
}

// DumpNAR implements Source.
func (s *cacheSource) DumpNAR(ctx context.Context, path nix.StorePath, w io.Writer) error {
	ni, ok := s.narinfos[path]
	if !ok {
		return fmt.Errorf("%s is not in the closure that comes from %s", path, s.cache)
	}
	r, err := s.cache.openNAR(ctx, ni, nil)
	if err != nil {
		return s.failed(ni, err)
	}
	defer r.Close()
	if _, err := io.Copy(w, r); err != nil {
		return s.failed(ni, fmt.Errorf("reading %s from %s: %w", path, ni.owner(s.cache), err))
	}
	return nil
}

// failed returns err, met in reading the NAR of ni, as a SubstituterError if it is
// the fault of an optional cache.
func (s *cacheSource) failed(ni *NarInfo, err error) error {
	var store storeError
	var damage *VerifyError
	owner := ni.owner(s.cache)
	if owner.config.Optional && (errors.As(err, &store) || errors.As(err, &damage) || errors.Is(err, blob.ErrNotExist)) {
		err = &SubstituterError{owner, ni.Path, err}
	}
	return err
}

// A SubstituterError says that an optional cache, which has announced a path, can't
// give it.
type SubstituterError struct {
	cache *Cache
	path  nix.StorePath
	err   error
}

func (e *SubstituterError) Error() string { return e.err.Error() }
func (e *SubstituterError) Unwrap() error { return e.err }

// maxResumptions is more than two substituters can cause.
const maxResumptions = 2 * (maxGone + 2)

// Repeat does all that a closure was found for, and does it again if that ends
// with a [*SubstituterError]: what that cache can't give is done without from then on.
func Repeat[T any](ctx context.Context, do func() (T, error)) (T, error) {
	for tries := 0; ; tries++ {
		result, err := do()
		var failed *SubstituterError
		if ctx.Err() != nil || tries == maxResumptions || !errors.As(err, &failed) || !failed.cache.doWithout(failed.path, failed.err) {
			return result, err
		}
	}
}

// maxGone is how many paths a cache may have announced and not given before it is
// done without as a whole.
const maxGone = 3

// doWithout takes a path for missing in an optional cache because of err, or the
// whole cache for empty, if it can't be read. It warns of that once, and returns false
// if the cache isn't optional.
func (c *Cache) doWithout(path nix.StorePath, err error) bool {
	if !c.config.Optional {
		return false
	}
	var store storeError
	if !errors.As(err, &store) {
		if _, known := c.gone.LoadOrStore(path.HashPart(), true); known {
			return true
		}
		if c.goneCount.Add(1) <= maxGone {
			c.warn(hint.With(fmt.Errorf("going on without %s of %s: %w", path, c, err), "it is taken from elsewhere, or built"))
			return true
		}
	}
	if c.away.CompareAndSwap(nil, &err) {
		c.warn(hint.With(fmt.Errorf("going on without %s: %w", c, err), "what it has is taken from elsewhere, built or sent"))
	}
	return true
}

// lacks says whether the cache is done without for the path with that hash part.
func (c *Cache) lacks(hash string) bool {
	if c.away.Load() != nil {
		return true
	}
	_, gone := c.gone.Load(hash)
	return gone
}

// fits says whether the file of a path can stand, as it is, in a cache of that
// compression. No more of it is read than any compression makes of its NAR.
func (s *cacheSource) fits(info *nix.PathInfo, compression string) bool {
	ni, ok := s.narinfos[info.Path]
	return ok && ni.Compression == compression && ni.NarHash == info.NarHash && ni.NarSize == info.NarSize
}

// dumpFile writes the file of a path to w, and what it unpacks to, to progress.
func (s *cacheSource) dumpFile(ctx context.Context, path nix.StorePath, w, progress io.Writer) error {
	ni := s.narinfos[path]
	if err := s.cache.readNAR(ctx, ni, w, progress, false); err != nil {
		return s.failed(ni, err)
	}
	return nil
}
