package cache

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// maxLookups is how many narinfos are asked for side by side. Each costs a
// round trip and next to nothing else.
const maxLookups = 64

// lookup reads the narinfo of a path, whether it is acceptable or not. The
// second result is the object's ETag. If there is none, the error wraps
// blob.ErrNotExist.
func (c *Cache) lookup(ctx context.Context, path nix.StorePath) (NarInfo, string, error) {
	text, info, err := blob.ReadAll(ctx, c.store, narinfoKey(path), maxNarInfoSize, blob.GetOptions{})
	if err != nil {
		if tooLarge := new(blob.TooLargeError); !errors.Is(err, blob.ErrNotExist) && !errors.As(err, &tooLarge) {
			err = storeError{err}
		}
		return NarInfo{}, "", fmt.Errorf("looking up %s: %w", path, err)
	}
	ni, err := ParseNarInfo(string(text))
	if err == nil && ni.Path != path {
		err = fmt.Errorf("it describes %s", ni.Path)
	}
	if err != nil {
		return NarInfo{}, "", fmt.Errorf("the narinfo of %s in %s is not valid: %w", path, c, err)
	}
	return ni, info.ETag, nil
}

// lookupUpstream adds to found those of paths that it lacks and a substituter
// has, acceptable by that one's keys.
func (c *Cache) lookupUpstream(ctx context.Context, paths []nix.StorePath, found map[nix.StorePath]NarInfo, substituters []*Cache) error {
	for _, s := range substituters {
		var missing []nix.StorePath
		for _, path := range paths {
			if _, ok := found[path]; !ok {
				missing = append(missing, path)
			}
		}
		theirs, err := s.lookupAll(ctx, missing)
		if err != nil {
			return err
		}
		for path, ni := range theirs {
			if s.acceptable(&ni) == nil {
				ni.from = s
				found[path] = ni
			}
		}
	}
	return nil
}

// lookupAll reads the narinfos of paths, side by side. Paths that the cache
// doesn't have are missing from the result.
func (c *Cache) lookupAll(ctx context.Context, paths []nix.StorePath) (map[nix.StorePath]NarInfo, error) {
	found := make([]*NarInfo, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxLookups)
	for i, path := range paths {
		group.Go(func() error {
			ni, _, err := c.lookup(ctx, path)
			if errors.Is(err, blob.ErrNotExist) {
				return nil
			}
			found[i] = &ni
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	result := make(map[nix.StorePath]NarInfo, len(paths))
	for i, ni := range found {
		if ni != nil {
			result[paths[i]] = *ni
		}
	}
	return result, nil
}
