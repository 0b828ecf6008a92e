package cache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Verification is what was found of a closure.
type Verification struct {
	Root    nix.StorePath
	Paths   int      // that were found or are missed
	NarSize int64    // of those that were found, in bytes
	NarHash nix.Hash // of Root; zero if it wasn't found
	Damage  []Damage // sorted by path
}

// Damage is what keeps a host from having a path.
type Damage struct {
	Path nix.StorePath
	Err  error
}

// Stale are the keys of those objects, present or not, that vouch for what is
// damaged. A push of the closure replaces what they describe once they are
// deleted, and not before.
func (v *Verification) Stale() []string {
	if len(v.Damage) == 0 {
		return nil
	}
	keys := []string{manifestKey(v.Root)}
	for _, d := range v.Damage {
		keys = append(keys, narinfoKey(d.Path))
	}
	return keys
}

// Verify looks at the closures of roots as a host's Nix would, and goes on where
// something is damaged: the narinfo of each path must be there and acceptable,
// whatever a manifest says, and its file must be there with the size that is
// announced. A deep verification downloads each file and checks its hashes, and
// that it is an archive; meter tells how far it is.
//
// An error says that the store didn't answer: then nothing is known.
func (c *Cache) Verify(ctx context.Context, roots []nix.StorePath, deep bool, meter *Meter) ([]Verification, error) {
	v := verifier{cache: c, found: map[nix.StorePath]NarInfo{}, damage: map[nix.StorePath]error{}}
	if err := v.walk(ctx, roots); err != nil {
		return nil, err
	}
	if err := v.files(ctx, deep, meter); err != nil {
		return nil, err
	}
	verifications := make([]Verification, len(roots))
	for i, root := range roots {
		verifications[i] = v.about(root)
	}
	return verifications, nil
}

// A verifier knows what was found so far.
type verifier struct {
	cache *Cache
	found map[nix.StorePath]NarInfo // by narinfo or, where that is damaged, by manifest

	mu     sync.Mutex
	damage map[nix.StorePath]error
}

// walk looks up the narinfos of the closures of roots. Where one is damaged, it
// goes on by what a manifest says.
func (v *verifier) walk(ctx context.Context, roots []nix.StorePath) error {
	listed := map[nix.StorePath]NarInfo{}
	for _, root := range roots {
		known, err := v.cache.readManifest(ctx, root)
		if err != nil {
			return err
		}
		maps.Copy(listed, known)
	}
	asked := map[nix.StorePath]bool{}
	for frontier := slices.Clone(roots); len(frontier) > 0; {
		var next []nix.StorePath
		for _, path := range frontier {
			if !asked[path] {
				asked[path] = true
				next = append(next, path)
			}
		}
		narinfos := make([]NarInfo, len(next))
		group, groupCtx := errgroup.WithContext(ctx)
		group.SetLimit(maxLookups)
		for i, path := range next {
			group.Go(func() (err error) {
				narinfos[i], err = v.cache.inspect(groupCtx, path)
				return v.note(path, err)
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		frontier = nil
		for i, path := range next {
			ni := narinfos[i]
			if v.damage[path] != nil {
				var ok bool
				if ni, ok = listed[path]; !ok {
					continue
				}
			}
			v.found[path] = ni
			frontier = append(frontier, ni.References...)
		}
	}
	return nil
}

// inspect returns the narinfo of a path, if it is acceptable.
func (c *Cache) inspect(ctx context.Context, path nix.StorePath) (NarInfo, error) {
	ni, _, err := c.lookup(ctx, path)
	if errors.Is(err, blob.ErrNotExist) {
		err = fmt.Errorf("%s is not in %s", path, c)
		found := map[nix.StorePath]NarInfo{}
		if err := c.lookupUpstream(ctx, []nix.StorePath{path}, found, c.config.Substituters); err != nil {
			return NarInfo{}, err
		}
		if ni, ok := found[path]; ok {
			return ni, nil
		}
	}
	if err != nil {
		return NarInfo{}, err
	}
	if err := c.acceptable(&ni); err != nil {
		return NarInfo{}, c.refuse(&ni, err)
	}
	return ni, nil
}

// files looks at the files of all paths whose narinfo isn't damaged.
func (v *verifier) files(ctx context.Context, deep bool, meter *Meter) error {
	sound := new(Closure)
	for path, ni := range v.found {
		if v.damage[path] == nil {
			sound.Paths = append(sound.Paths, ni)
		}
	}
	if deep {
		return v.cache.eachNAR(ctx, sound, meter, func(ctx context.Context, ni *NarInfo) error {
			return v.note(ni.Path, v.cache.verifyNAR(ctx, ni, nil, meter))
		})
	}
	return v.cache.eachNAR(ctx, sound, nil, func(ctx context.Context, ni *NarInfo) error {
		return v.note(ni.Path, v.cache.statNAR(ctx, ni))
	})
}

// statNAR says whether the file of ni is there, with the size that it should have.
func (c *Cache) statNAR(ctx context.Context, ni *NarInfo) error {
	c = ni.owner(c)
	info, err := c.store.Stat(ctx, ni.URL)
	switch {
	case err != nil:
		return c.noFile(ni, err)
	case ni.FileSize > 0 && info.Size >= 0 && info.Size != ni.FileSize:
		return c.damaged(ni, "FileSize", ni.FileSize, info.Size)
	}
	return nil
}

// note takes note of what is wrong with a path, and returns the errors that say
// nothing about that.
func (v *verifier) note(path nix.StorePath, err error) error {
	var failed storeError
	if err == nil || errors.As(err, &failed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.damage[path] = err
	return nil
}

// about returns what was found of the closure of root.
func (v *verifier) about(root nix.StorePath) Verification {
	about := Verification{Root: root, NarHash: v.found[root].NarHash}
	reached := map[nix.StorePath]bool{root: true}
	for frontier := []nix.StorePath{root}; len(frontier) > 0; {
		path := frontier[0]
		frontier = frontier[1:]
		about.Paths++
		if err := v.damage[path]; err != nil {
			about.Damage = append(about.Damage, Damage{path, err})
		}
		ni := v.found[path]
		about.NarSize += ni.NarSize
		for _, ref := range ni.References {
			if !reached[ref] {
				reached[ref] = true
				frontier = append(frontier, ref)
			}
		}
	}
	slices.SortFunc(about.Damage, func(a, b Damage) int { return a.Path.Compare(b.Path) })
	return about
}
