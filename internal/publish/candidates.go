package publish

import (
	"context"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/imports"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// An Import is a candidate that earlier steps have left: a cache, a store, or a
// tar of either.
type Import struct {
	File     string        // the directory or tar
	Root     nix.StorePath // which closure it is; zero if there is only one
	Revision string        // of the sources that it was built from; "" if that isn't known
}

// Prepare implements Candidate.
func (c Import) Prepare(ctx context.Context, p *Preparation) (*Closure, error) {
	imported, err := imports.Open(ctx, c.File, c.Root)
	if err != nil {
		return nil, err
	}
	return &Closure{Root: imported.Root, Infos: imported.Infos, Source: imported.Source, Revision: c.Revision, Close: imported.Close}, nil
}

// InCache returns a closure that was found whole in a site's own cache.
func InCache(c *cache.Cache, found *cache.Closure) *Closure {
	return &Closure{Root: found.Root, Infos: found.Infos(), Source: c.Source(found), Found: found, Close: nothing}
}
