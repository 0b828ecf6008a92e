// Package download leaves the closure of a generation on disk: as a task's image,
// a binary cache, the files of a path, or an archive.
//
// Everything is verified on the way: the generation's signature, each path's, the
// size and the hash of each NAR. The result is whole, or the directory is left
// empty: what stands for a whole result, generation.json, is written last and
// removed first.
//
// The package starts no process and needs no Nix, and no room that it imports
// does.
package download

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
	"github.com/nixos-closure/nixos-closure-resource/internal/store"
)

// A Request says what to download, and where to.
type Request struct {
	Site    *site.Site
	Console *console.Console

	Pointer    pointer.Name
	Generation uint64         // 0: the newest
	Path       nix.StorePath  // what the generation must be; zero: whatever it is
	Also       []pointer.Name // whose newest closures are wanted in the same image

	Format      Format      // "": Rootfs
	Compression Compression // of an archive
	Dir         string      // to fill: it exists, and is empty
}

// A Result is what was downloaded.
type Result struct {
	Generation pointer.Generation
	Changes    *changes.Changes // against the generation before
}

// Format is in what form a closure is left.
type Format string

// The formats, and what each leaves.
const (
	Rootfs  Format = "rootfs"  // a task's image, which is a store with its database, in rootfs
	Cache   Format = "cache"   // a binary cache, in cache
	Files   Format = "result"  // the root without what it refers to, as result
	Archive Format = "archive" // a tar of a store, closure.tar.gz or closure.tar.zst
	None    Format = "none"    // only the small files
)

// ParseFormat parses the name of a format.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Rootfs, Cache, Files, Archive, None:
		return f, nil
	}
	return "", fmt.Errorf("want rootfs, cache, result, archive or none, got %q", s)
}

// An AlsoError is that of one of the closures that are downloaded besides the
// generation's.
type AlsoError struct{ err error }

func (e *AlsoError) Error() string { return e.err.Error() }
func (e *AlsoError) Unwrap() error { return e.err }

// Run downloads the closure of a generation. If it fails, it leaves the directory
// empty.
func Run(ctx context.Context, r Request) (result *Result, err error) {
	r.Format = cmp.Or(r.Format, Rootfs)
	dest, err := openDestination(r.Dir)
	if err != nil {
		return nil, err
	}
	defer dest.close()

	// Which closure is it?
	source := r.Site.Pointer(r.Pointer)
	history, err := source.Read(ctx)
	if err != nil {
		return nil, err
	}
	generation, err := r.find(ctx, source, history)
	if err != nil {
		return nil, err
	}
	closure, err := source.Closure(ctx, generation)
	if err != nil {
		return nil, err
	}
	also, err := r.also(ctx)
	if err != nil {
		return nil, &AlsoError{err}
	}

	// Fetch it, and say what it is.
	needs := r.needs(merge(closure, also))
	if err := dest.hasRoom(needs); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(dest.explain(err, needs), dest.clear())
		}
	}()
	if err := r.fetch(ctx, closure, also, dest); err != nil {
		return nil, err
	}
	changed, err := source.Changes(ctx, history, generation, closure, r.Site.Cache.Closure)
	if err != nil {
		r.Console.Warn("%v", err)
	}
	return &Result{generation, changed}, writeSmallFiles(dest, r.Pointer, generation, closure, changed)
}

// find returns the generation that is wanted.
func (r *Request) find(ctx context.Context, source *site.Pointer, history *pointer.History) (pointer.Generation, error) {
	g, err := source.FindIn(ctx, history, r.Generation)
	if err == nil && !r.Path.IsZero() && g.Path != r.Path {
		err = hint.With(fmt.Errorf("generation %d of %s is %s, not %s", g.Number, r.Pointer, g.Path, r.Path),
			"the version is one of another history: the pointer was deleted and begun again")
	}
	return g, err
}

// writeSmallFiles says beside a closure what it is.
func writeSmallFiles(dest destination, name pointer.Name, g pointer.Generation, closure *cache.Closure, changed *changes.Changes) error {
	changesDocument, err := json.MarshalIndent(changed, "", "  ")
	if err != nil {
		return err
	}
	document, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return err
	}
	infos := closure.Infos()
	for _, file := range []struct{ name, content string }{
		{"path", g.Path.String() + "\n"},
		{"generation", strconv.FormatUint(g.Number, 10) + "\n"},
		{"pointer", string(name) + "\n"},
		{"store-paths", store.StorePaths(infos)},
		{"registration", store.Registration(infos)},
		{"total-nar-size", strconv.FormatInt(closure.NarSize(), 10) + "\n"},
		{"changes.txt", changed.Text(false)},
		{"changes.json", string(changesDocument) + "\n"},
		{GenerationFile, string(document) + "\n"},
	} {
		if err := dest.write(file.name, file.content); err != nil {
			return err
		}
	}
	return nil
}

// fetch leaves the closure in the destination, in the format that is wanted, with
// the further closures merged into it, and tells a person how that goes.
func (r *Request) fetch(ctx context.Context, closure *cache.Closure, also []further, dest destination) error {
	what, size := "the closure of "+closure.Root.String(), console.Amount(len(closure.Paths), closure.NarSize())
	switch r.Format {
	case None:
		return nil
	case Files:
		what, size = closure.Root.String(), console.Bytes(closure.RootInfo().NarSize)
	}
	r.Console.Say("fetching %s (%s) from %s", what, size, r.Site.Cache)
	meter := new(cache.Meter)
	defer r.Console.Progress("fetching", meter)()
	switch r.Format {
	case Cache:
		return r.Site.Cache.Copy(ctx, closure, blob.NewDirectory(dest.path("cache")), meter)
	case Files:
		return r.fetchResult(ctx, closure, meter, dest)
	case Archive:
		return r.fetchArchive(ctx, closure, meter, dest)
	}
	return r.fetchImage(ctx, merge(closure, also), also, meter, dest)
}

// fetchImage leaves a closure, which the further ones are part of, in the
// destination as a task's image.
func (r *Request) fetchImage(ctx context.Context, closure *cache.Closure, also []further, meter *cache.Meter, dest destination) error {
	root, err := store.CreateRoot(dest.path("rootfs"))
	if err != nil {
		return err
	}
	if err := r.Site.Cache.Fetch(ctx, closure, root, meter); err != nil {
		return err
	}
	if err := root.Register(ctx, closure.Infos()); err != nil {
		return err
	}
	return makeImage(dest, closure, also)
}

// further is a closure that is downloaded besides that of the generation: the one
// that another pointer of the same cache leads to at that time. It is verified in
// the same way.
type further struct {
	pointer pointer.Name
	closure *cache.Closure
}

// maxReads is how many pointers are read side by side.
const maxReads = 16

// also finds out what the further pointers lead to.
func (r *Request) also(ctx context.Context) ([]further, error) {
	all := make([]further, len(r.Also))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxReads)
	for i, name := range r.Also {
		group.Go(func() error {
			p := r.Site.Pointer(name)
			history, err := p.Read(ctx)
			if err != nil {
				return err
			}
			p.Warn(r.Console, history)
			newest, ok := history.Newest()
			if !ok {
				return hint.With(fmt.Errorf("%s has no generations", p), "is the name right? The first put makes a pointer")
			}
			closure, err := p.Closure(ctx, newest)
			if err != nil {
				return err
			}
			r.Console.Say("adding generation %d of %s: %s (%s)", newest.Number, name, closure.Root, console.Amount(len(closure.Paths), closure.NarSize()))
			all[i] = further{name, closure}
			return nil
		})
	}
	return all, group.Wait()
}

// merge returns a closure that also has those paths of the further ones that it
// lacks; they come first.
func merge(closure *cache.Closure, also []further) *cache.Closure {
	has := make(map[nix.StorePath]bool, len(closure.Paths))
	for i := range closure.Paths {
		has[closure.Paths[i].Path] = true
	}
	var more []cache.NarInfo
	for _, f := range also {
		for _, ni := range f.closure.Paths {
			if !has[ni.Path] {
				has[ni.Path] = true
				more = append(more, ni)
			}
		}
	}
	return &cache.Closure{Root: closure.Root, Paths: append(more, closure.Paths...)}
}
