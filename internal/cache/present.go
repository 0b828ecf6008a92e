package cache

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// manifests returns the closures of those roots whose manifests vouch for them,
// nil for the others, and what the manifests of those others list.
func (c *Cache) manifests(ctx context.Context, roots []nix.StorePath, previous []*Closure) ([]*Closure, map[nix.StorePath]NarInfo, error) {
	closures := make([]*Closure, len(roots))
	listed := map[nix.StorePath]NarInfo{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxManifests)
	for i, root := range roots {
		group.Go(func() error {
			known, err := c.manifest(ctx, root, previous)
			if closures[i] = c.vouched(root, known); closures[i] == nil {
				mu.Lock()
				maps.Copy(listed, known)
				mu.Unlock()
			}
			return err
		})
	}
	return closures, listed, group.Wait()
}

// manifest returns what the manifest of a root lists.
func (c *Cache) manifest(ctx context.Context, root nix.StorePath, previous []*Closure) (map[nix.StorePath]NarInfo, error) {
	for _, closure := range previous {
		if closure.Root == root && closure.listed {
			return closure.byPath(), nil
		}
	}
	return c.readManifest(ctx, root)
}

// vouched returns the closure of root if known narinfos cover it, each of
// the cache itself signed by all of our keys; otherwise nil.
func (c *Cache) vouched(root nix.StorePath, known map[nix.StorePath]NarInfo) *Closure {
	sorted, err := sortClosure(root, known)
	if err != nil || slices.ContainsFunc(sorted, func(ni NarInfo) bool {
		return ni.from == nil && !ni.signedByAll(c.config.SigningKeys)
	}) {
		return nil
	}
	return &Closure{Root: root, Paths: sorted, listed: true}
}

// present finds out which paths the cache has: from the manifests of previous
// roots, and by asking for the rest, unless the cache is empty. The narinfos need
// not be acceptable.
func (c *Cache) present(ctx context.Context, req PushRequest, local map[nix.StorePath]nix.PathInfo, listed map[nix.StorePath]NarInfo, empty bool) (map[nix.StorePath]NarInfo, error) {
	have := wholeOnly(listed)
	for _, closure := range req.Previous {
		if closure.listed {
			maps.Copy(have, closure.byPath())
		}
	}
	var ask []nix.StorePath
	for path := range local {
		if _, ok := have[path]; !ok {
			ask = append(ask, path)
		}
	}
	found := map[nix.StorePath]NarInfo{}
	if !empty {
		var err error
		if found, err = c.lookupAll(ctx, nix.SortPaths(ask)); err != nil {
			return nil, err
		}
	}
	if err := c.lookupUpstream(ctx, ask, found, req.Upstreams); err != nil {
		return nil, err
	}
	maps.Copy(have, found)
	return have, nil
}

// wholeOnly returns those paths of manifests whose closure is in them: they vouch
// for no others.
func wholeOnly(manifest map[nix.StorePath]NarInfo) map[nix.StorePath]NarInfo {
	whole := make(map[nix.StorePath]NarInfo, len(manifest))
	maps.Copy(whole, manifest)
	for dropped := true; dropped; {
		dropped = false
		maps.DeleteFunc(whole, func(path nix.StorePath, ni NarInfo) bool {
			lacks := slices.ContainsFunc(ni.References, func(ref nix.StorePath) bool {
				_, ok := whole[ref]
				return !ok
			})
			dropped = dropped || lacks
			return lacks
		})
	}
	return whole
}

// checkUpstream makes sure that what is left to upstreams is there now, when
// the closures are published. It returns those paths whose upstream can't be asked.
func (c *Cache) checkUpstream(ctx context.Context, closures []*Closure) (away map[nix.StorePath]bool, err error) {
	wanted := map[*Cache][]nix.StorePath{}
	for _, closure := range closures {
		for i := range closure.Paths {
			if ni := &closure.Paths[i]; ni.from != nil {
				wanted[ni.from] = append(wanted[ni.from], ni.Path)
			}
		}
	}
	away = map[nix.StorePath]bool{}
	for upstream, paths := range wanted {
		paths = nix.SortPaths(paths)
		found, err := upstream.lookupAll(ctx, paths)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			if _, ok := found[path]; ok {
				continue
			}
			if upstream.away.Load() == nil {
				return nil, hint.With(fmt.Errorf("%s has disappeared from the upstream cache %s", path, upstream),
					"run again to push it; if this upstream deletes things, take it off skip_upstream")
			}
			away[path] = true
		}
	}
	return away, nil
}
