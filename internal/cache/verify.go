package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
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

	// Keep says that to send the path again is no remedy: nobody who is trusted
	// vouches for it, or it is a substituter that has it.
	Keep bool

	file string // its key, if that is what is damaged
}

// Stale are the keys of what is damaged and of what vouches for it, whether they
// are there or not, in the order in which they are to be deleted. A push of the
// closure sends again what is damaged once they are gone, and not before.
func (v *Verification) Stale() []string {
	var narinfos, files []string
	for _, d := range v.Damage {
		if d.Keep {
			continue
		}
		narinfos = append(narinfos, narinfoKey(d.Path))
		if d.file != "" {
			files = append(files, d.file)
		}
	}
	if len(narinfos) == 0 {
		return nil
	}
	return slices.Concat([]string{manifestKey(v.Root)}, narinfos, files)
}

// Verify looks at the closures of roots as a host's Nix would, and goes on where
// something is damaged: the narinfo of each path must be there and acceptable,
// whatever a manifest says, and its file must be there with the size that is
// announced. A deep verification downloads each file and checks its hashes, and
// that it is an archive; meter tells how far it is.
//
// An error says that the store didn't answer: then nothing is known.
func (c *Cache) Verify(ctx context.Context, roots []nix.StorePath, deep bool, meter *Meter) ([]Verification, error) {
	v := verifier{cache: c, found: map[nix.StorePath]NarInfo{}, damage: map[nix.StorePath]Damage{}}
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
	damage map[nix.StorePath]Damage
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
				return v.note(Damage{Path: path, Err: err, Keep: errors.Is(err, ErrUntrusted)})
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		frontier = nil
		for i, path := range next {
			ni := narinfos[i]
			if _, broken := v.damage[path]; broken {
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
		if unasked := c.unasked(); unasked != nil { // that is no damage
			return NarInfo{}, storeError{fmt.Errorf("%w, and %w", err, unasked)}
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
	look := v.cache.statNAR
	if deep {
		look = func(ctx context.Context, ni *NarInfo) error { return v.cache.verifyNAR(ctx, ni, io.Discard, meter) }
	} else {
		meter = nil // next to nothing is read
	}
	sound := new(Closure)
	for path, ni := range v.found {
		if _, broken := v.damage[path]; !broken {
			sound.Paths = append(sound.Paths, ni)
		}
	}
	return v.cache.eachNAR(ctx, sound, meter, func(ctx context.Context, ni *NarInfo) error {
		return v.note(Damage{Path: ni.Path, Err: look(ctx, ni), Keep: ni.from != nil, file: ni.URL})
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

// note takes note of damage, unless its error is none, or one that says nothing
// about the path: that is returned.
func (v *verifier) note(d Damage) error {
	var failed storeError
	if d.Err == nil || errors.As(d.Err, &failed) || errors.Is(d.Err, context.Canceled) || errors.Is(d.Err, context.DeadlineExceeded) {
		return d.Err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.damage[d.Path] = d
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
		if d, broken := v.damage[path]; broken {
			about.Damage = append(about.Damage, d)
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
