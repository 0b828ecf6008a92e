package cache

import (
	"context"
	"fmt"
	"io"

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
		return err
	}
	defer r.Close()
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("reading %s from %s: %w", path, ni.owner(s.cache), err)
	}
	return nil
}

// fits says whether the file of a path can stand, as it is, in a cache of that
// compression. No more of it is read than any compression makes of its NAR.
func (s *cacheSource) fits(info *nix.PathInfo, compression string) bool {
	ni, ok := s.narinfos[info.Path]
	return ok && ni.Compression == compression && ni.NarHash == info.NarHash && ni.NarSize == info.NarSize
}

// dumpFile writes the file of a path to w, and what it unpacks to, to progress.
func (s *cacheSource) dumpFile(ctx context.Context, path nix.StorePath, w, progress io.Writer) error {
	return s.cache.readNAR(ctx, s.narinfos[path], w, progress, false)
}
