package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Closure is a store path and everything it references, transitively, as the
// cache has it: every narinfo is acceptable.
type Closure struct {
	Root  nix.StorePath
	Paths []NarInfo // each once, references before what refers to them; the last is Root

	listed bool // all of them were in the manifest of Root
}

// NarSize is the size of all NARs, uncompressed, in bytes.
func (cl *Closure) NarSize() int64 {
	var sum int64
	for i := range cl.Paths {
		sum += cl.Paths[i].NarSize
	}
	return sum
}

// Infos returns what a store has to know of the paths, in the order of Paths.
func (cl *Closure) Infos() []nix.PathInfo {
	infos := make([]nix.PathInfo, len(cl.Paths))
	for i := range cl.Paths {
		infos[i] = cl.Paths[i].PathInfo
	}
	return infos
}

// byPath returns the narinfos by their paths.
func (cl *Closure) byPath() map[nix.StorePath]NarInfo {
	narinfos := make(map[nix.StorePath]NarInfo, len(cl.Paths))
	for _, ni := range cl.Paths {
		narinfos[ni.Path] = ni
	}
	return narinfos
}

// RootInfo is the narinfo of the root.
func (cl *Closure) RootInfo() *NarInfo { return &cl.Paths[len(cl.Paths)-1] }

// Closure finds out what the closure of root is: in one request where there is
// a manifest, and path by path, side by side, for what that doesn't cover. It
// fails if a path is missing or not acceptable.
func (c *Cache) Closure(ctx context.Context, root nix.StorePath) (*Closure, error) {
	known, err := c.readManifest(ctx, root)
	if err != nil {
		return nil, err
	}
	closure, asked, err := c.complete(ctx, root, known)
	if err == nil {
		closure.listed = !asked
	}
	return closure, err
}

// Closures finds out which of roots the cache has, their closures whole and
// acceptable, and returns those. What several share is asked for once.
func (c *Cache) Closures(ctx context.Context, roots []nix.StorePath) (map[nix.StorePath]*Closure, error) {
	vouched, known, err := c.manifests(ctx, roots, nil)
	if err != nil {
		return nil, err
	}
	closures := make(map[nix.StorePath]*Closure, len(roots))
	var unknown []nix.StorePath
	for i, root := range roots {
		if closures[root] = vouched[i]; vouched[i] == nil {
			unknown = append(unknown, root)
		}
	}
	found, err := c.lookupAll(ctx, unknown) // most often, they aren't there at all
	if err != nil {
		return nil, err
	}
	if err := c.lookupUpstream(ctx, unknown, found, c.config.Substituters); err != nil {
		return nil, err
	}
	for _, root := range unknown {
		delete(closures, root)
		ni, ok := found[root]
		if !ok || ni.owner(c).acceptable(&ni) != nil {
			continue
		}
		known[root] = ni
		closure, _, err := c.complete(ctx, root, known)
		var failed storeError
		switch {
		case err == nil:
			closures[root] = closure
		case errors.As(err, &failed) || ctx.Err() != nil:
			return nil, err
		}
	}
	return closures, nil
}

// complete walks from root along the references of known narinfos, and asks the
// cache for those that are not known. The second result says whether it had to.
func (c *Cache) complete(ctx context.Context, root nix.StorePath, known map[nix.StorePath]NarInfo) (*Closure, bool, error) {
	reached := map[nix.StorePath]NarInfo{}
	referrer := map[nix.StorePath]nix.StorePath{}
	frontier, asked := []nix.StorePath{root}, false
	for len(frontier) > 0 {
		var unknown []nix.StorePath
		for len(frontier) > 0 {
			path := frontier[len(frontier)-1]
			frontier = frontier[:len(frontier)-1]
			if _, ok := reached[path]; ok {
				continue
			}
			ni, ok := known[path]
			if !ok {
				unknown = append(unknown, path)
				continue
			}
			reached[path] = ni
			for _, ref := range ni.References {
				if _, ok := referrer[ref]; !ok {
					referrer[ref] = path
				}
				frontier = append(frontier, ref)
			}
		}
		if len(unknown) == 0 {
			break
		}
		asked = true
		unknown = nix.SortPaths(unknown)
		found, err := c.lookupAll(ctx, unknown)
		if err != nil {
			return nil, false, err
		}
		if err := c.lookupUpstream(ctx, unknown, found, c.config.Substituters); err != nil {
			return nil, false, err
		}
		for _, path := range unknown {
			ni, ok := found[path]
			if !ok {
				return nil, false, c.missing(root, path, referrer[path])
			}
			if err := ni.owner(c).acceptable(&ni); err != nil {
				return nil, false, c.refuse(&ni, err)
			}
		}
		if known == nil {
			known = found
		} else {
			maps.Copy(known, found)
		}
		frontier = unknown
	}
	sorted, err := sortClosure(root, reached)
	if err != nil {
		return nil, false, fmt.Errorf("the closure of %s in %s: %w", root, c, err)
	}
	return &Closure{Root: root, Paths: sorted}, asked, nil
}

func (c *Cache) missing(root, path, referrer nix.StorePath) error {
	if path == root {
		err := fmt.Errorf("%s is not in %s", root, c)
		if denied := c.denied.Load(); denied != nil {
			err = hint.With(fmt.Errorf("%w, or may not be read: %w", err, *denied), "a cache that needs credentials answers so, and one whose readers can't list it, if it hasn't got something")
		}
		return err
	}
	if err := c.unasked(); err != nil {
		return hint.With(fmt.Errorf("the closure of %s is not whole: %s, which %s refers to, is not in %s, and %w", root, path, referrer, c, err),
			"if it was left to that cache by skip_upstream, it is there: run again when that can be reached")
	}
	return hint.With(fmt.Errorf("the closure of %s is not whole: %s, which %s refers to, is not in %s", root, path, referrer, c),
		"if it was pushed with skip_upstream, list the same caches here, in substituters; otherwise something has deleted objects: push the closure again")
}

// sortClosure returns those of paths that root leads to, references before what
// refers to them. It refuses a reference that is missing, and cycles other than
// of a path with itself.
func sortClosure(root nix.StorePath, paths map[nix.StorePath]NarInfo) ([]NarInfo, error) {
	type visit struct {
		path nix.StorePath
		next int // index of the reference to look at next
	}
	const open, closed = 1, 2
	state := make(map[nix.StorePath]int, len(paths))
	sorted := make([]NarInfo, 0, len(paths))
	stack := []visit{{path: root}}
	state[root] = open
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		ni, ok := paths[top.path]
		if !ok {
			return nil, fmt.Errorf("%s is missing", top.path)
		}
		if top.next == len(ni.References) {
			state[top.path] = closed
			sorted = append(sorted, ni)
			stack = stack[:len(stack)-1]
			continue
		}
		ref := ni.References[top.next]
		top.next++
		switch {
		case ref == top.path || state[ref] == closed:
		case state[ref] == open:
			return nil, fmt.Errorf("%s and %s refer to each other", top.path, ref)
		default:
			state[ref] = open
			stack = append(stack, visit{path: ref})
		}
	}
	return slices.Clip(sorted), nil
}
