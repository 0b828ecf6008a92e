package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// maxLookups is how many narinfos are asked for side by side. Each costs a
// round trip and next to nothing else.
const maxLookups = 64

// lookup reads the narinfo of a path, whether it is acceptable or not. The
// second result is the object's ETag. If there is none, the error wraps
// blob.ErrNotExist.
func (c *Cache) lookup(ctx context.Context, path nix.StorePath) (NarInfo, string, error) {
	ni, etag, err := c.lookupHash(ctx, path.HashPart(), path.String())
	if err == nil && ni.Path != path {
		err = c.withoutIt(ctx, c.invalid(path.String(), fmt.Errorf("it describes %s", ni.Path)))
	}
	if err != nil {
		return NarInfo{}, "", err
	}
	return ni, etag, nil
}

// lookupHash is lookup for the path with that hash, by what name it is called in
// errors.
func (c *Cache) lookupHash(ctx context.Context, hash, name string) (NarInfo, string, error) {
	if c.lacks(hash) {
		return NarInfo{}, "", fmt.Errorf("looking up %s: %s is done without: %w", name, c, blob.ErrNotExist)
	}
	if !c.config.Optional {
		return c.readNarInfo(ctx, hash, name)
	}
	asked, cancel := context.WithTimeout(retry.Within(ctx, maxRetrying), maxAsking)
	defer cancel()
	ni, etag, err := c.readNarInfo(asked, hash, name)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s: %w", maxAsking, err)
	}
	return ni, etag, c.withoutIt(ctx, err)
}

// readNarInfo is lookupHash, whatever the cache is.
func (c *Cache) readNarInfo(ctx context.Context, hash, name string) (NarInfo, string, error) {
	text, info, err := blob.ReadAll(ctx, c.store, hash+narinfoSuffix, maxNarInfoSize, blob.GetOptions{})
	if err != nil {
		err = c.absent(err)
		if tooLarge := new(blob.TooLargeError); !errors.Is(err, blob.ErrNotExist) && !errors.As(err, &tooLarge) {
			err = storeError{err}
		}
		return NarInfo{}, "", fmt.Errorf("looking up %s: %w", name, err)
	}
	ni, err := ParseNarInfo(string(text))
	if err == nil && ni.Path.HashPart() != hash {
		err = fmt.Errorf("it describes %s", ni.Path)
	}
	if err != nil {
		return NarInfo{}, "", c.invalid(name, err)
	}
	return ni, info.ETag, nil
}

// How long a cache that can be done without is waited for: in all, and until a
// failed request isn't made again.
const (
	maxAsking   = 15 * time.Second
	maxRetrying = 2 * time.Second
)

// withoutIt returns err, met in looking up a path, as one that wraps
// blob.ErrNotExist if the cache is optional. It warns, once, of what is done without:
// all of the cache, if it can't be read; else what it has that isn't valid.
func (c *Cache) withoutIt(ctx context.Context, err error) error {
	if err == nil || !c.config.Optional || errors.Is(err, blob.ErrNotExist) || ctx.Err() != nil {
		return err
	}
	var failed storeError
	switch {
	case !errors.As(err, &failed):
		if !c.odd.Swap(true) {
			c.warn(hint.With(fmt.Errorf("going on without what can't be read of %s: %w", c, err), "is it a Nix cache, and its URL right?"))
		}
	case c.away.CompareAndSwap(nil, &err):
		c.warn(hint.With(fmt.Errorf("going on without %s: %w", c, err), "what it has is taken from elsewhere, built or sent"))
	}
	return fmt.Errorf("%w: %w", blob.ErrNotExist, err)
}

func (c *Cache) warn(err error) {
	if c.config.Warn != nil {
		c.config.Warn(err)
	}
}

// unasked returns an error if there are substituters that can't be asked: what the
// cache doesn't have they may have.
func (c *Cache) unasked() error {
	var errs []error
	for _, s := range c.config.Substituters {
		if away := s.away.Load(); away != nil {
			errs = append(errs, fmt.Errorf("%s can't be asked: %w", s, *away))
		}
	}
	return errors.Join(errs...)
}

// absent returns err, met in asking for a narinfo or a manifest, as one that wraps
// blob.ErrNotExist if it is the answer 403 of a cache that we only read: a bucket
// that its readers can't list says so of what it doesn't have, and Nix takes it for
// that.
func (c *Cache) absent(err error) error {
	if !blob.IsForbidden(err) || c.store.Capabilities().Write && !c.config.Optional {
		return err
	}
	c.denied.Store(&err)
	return fmt.Errorf("%w: %w", blob.ErrNotExist, err)
}

func (c *Cache) invalid(path string, err error) error {
	return fmt.Errorf("the narinfo of %s in %s is not valid: %w", path, c, err)
}

// Find returns the narinfo of the path with that hash part, which is a valid
// one, for whoever passes paths on. If the cache hasn't got it, the error wraps
// blob.ErrNotExist; if it isn't acceptable, [ErrUntrusted].
func (c *Cache) Find(ctx context.Context, hash string) (*NarInfo, error) {
	ni, _, err := c.lookupHash(ctx, hash, nix.StoreDir+"/"+hash+"-…")
	if err != nil {
		return nil, err
	}
	if err := c.acceptable(&ni); err != nil {
		return nil, c.refuse(&ni, err)
	}
	return &ni, nil
}

// OpenNAR opens the NAR of a path that Find has found, unpacked. Its Read
// returns io.EOF only after everything that the narinfo says has been found to
// hold: until then, what has been read is not to be believed. If the cache is
// optional and can't be reached, the error wraps blob.ErrNotExist.
func (c *Cache) OpenNAR(ctx context.Context, ni *NarInfo) (io.ReadCloser, error) {
	if !c.config.Optional {
		return c.openNAR(ctx, ni, nil)
	}
	if c.away.Load() != nil {
		return nil, fmt.Errorf("fetching %s: %s is away: %w", ni.Path, c, blob.ErrNotExist)
	}
	r, err := c.openNAR(retry.Within(ctx, maxAsking), ni, nil)
	if errors.As(err, new(storeError)) {
		err = c.withoutIt(ctx, err)
	}
	return r, err
}

// RequireSigs says whether the cache's paths need a signature, and PublicKeys
// by whom.
func (c *Cache) RequireSigs() bool { return c.config.RequireSigs }

// PublicKeys are those whose signatures make a path acceptable.
func (c *Cache) PublicKeys() nix.Keys { return slices.Clone(c.config.PublicKeys) }

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
		if len(missing) == 0 || s.away.Load() != nil {
			continue
		}
		theirs, err := s.lookupAll(ctx, missing)
		if err != nil {
			return err
		}
		s.warnDenied(len(theirs))
		for path, ni := range theirs {
			if s.acceptable(&ni) == nil {
				ni.from = s
				found[path] = ni
			}
		}
	}
	return nil
}

// warnDenied tells, once, of an optional cache that has denied what was asked for
// and has had nothing else to say.
func (c *Cache) warnDenied(found int) {
	if denied := c.denied.Swap(nil); denied != nil && found == 0 && c.away.CompareAndSwap(nil, denied) {
		c.warn(fmt.Errorf("going on without %s, which denies all that it was asked for: %w", c, *denied))
	}
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
