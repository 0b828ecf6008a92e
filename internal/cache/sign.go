package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// signAll adds our signatures to narinfos that are there.
func (c *Cache) signAll(ctx context.Context, narinfos []NarInfo) (map[nix.StorePath]NarInfo, error) {
	signed := make([]NarInfo, len(narinfos))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxUploads)
	for i, ni := range narinfos {
		group.Go(func() (err error) {
			signed[i], err = c.sign(ctx, ni)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	result := make(map[nix.StorePath]NarInfo, len(signed))
	for _, ni := range signed {
		result[ni.Path] = ni
	}
	return result, nil
}

// maxAttempts bounds how often a compare-and-swap is tried again because
// another writer was faster. Each failure means that another has succeeded.
const maxAttempts = 20

// sign adds our signatures to the narinfo of a path, whose content is either
// vouched for by a trusted key or the same as that of our own store. In the
// latter case nobody has vouched for the file, which is therefore looked at.
func (c *Cache) sign(ctx context.Context, seen NarInfo) (NarInfo, error) {
	if !seen.SignedBy(c.config.PublicKeys) {
		if err := c.verifyNAR(ctx, &seen, io.Discard, io.Discard); err != nil {
			return NarInfo{}, err
		}
	}
	var lost error
	for range maxAttempts {
		ni, etag, err := c.lookup(ctx, seen.Path)
		if err != nil {
			return NarInfo{}, err
		}
		if !sameContent(&ni.PathInfo, &seen.PathInfo) || ni.URL != seen.URL {
			return NarInfo{}, hint.With(fmt.Errorf("the narinfo of %s in %s has changed while we were looking at it", ni.Path, c), "run again")
		}
		if !ni.addSignatures(c.config.SigningKeys) {
			return ni, nil
		}
		if lost != nil {
			return NarInfo{}, lost
		}
		err = c.replace(ctx, narinfoKey(ni.Path), ni.Text(), etag)
		switch {
		case err == nil:
			return ni, nil
		case errors.Is(err, blob.ErrPrecondition):
		case errors.Is(err, blob.ErrPermission), errors.Is(err, blob.ErrReadOnly), ctx.Err() != nil:
			return NarInfo{}, err
		default:
			lost = err // perhaps only the answer: the next look will tell
		}
	}
	return NarInfo{}, fmt.Errorf("signing %s in %s: other writers were faster %d times", seen.Path, c, maxAttempts)
}

// replace writes a narinfo over the one with that ETag.
func (c *Cache) replace(ctx context.Context, key, text, etag string) error {
	opts := blob.PutOptions{ContentType: narinfoType}
	if c.store.Capabilities().Conditional {
		opts.IfMatch = etag
	}
	return c.put(ctx, key, text, opts)
}
