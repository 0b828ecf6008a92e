package resource

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// InParams are the params of a get.
type InParams struct {
	Format      format
	Compression compression    // of an archive
	Also        []pointer.Name // whose closures are wanted, too
}

// format is in what form a get leaves a closure.
type format string

const (
	formatRootfs  format = "rootfs"  // as a task's image, which is a store with its database, in rootfs
	formatCache   format = "cache"   // as a binary cache, in cache
	formatResult  format = "result"  // the root without what it refers to, as result
	formatArchive format = "archive" // as a tar of a store, closure.tar.gz or closure.tar.zst
	formatNone    format = "none"    // not at all
)

// decodeInParams takes the params of a get.
func decodeInParams(r *request) InParams {
	o := r.object("params")
	defer o.finish()
	p := InParams{Format: cmp.Or(parsed(o, "format", parseFormat), formatRootfs)}
	if o.flag("skip_download", false) {
		p.Format = formatNone
	}
	p.Compression = decodeCompression(o, p.Format)
	p.Also = decodeAlso(o, p.Format)
	return p
}

func parseFormat(s string) (format, error) {
	switch f := format(s); f {
	case formatRootfs, formatCache, formatResult, formatArchive, formatNone:
		return f, nil
	}
	return "", fmt.Errorf("want rootfs, cache, result, archive or none, got %q", s)
}

// In fetches the closure of a generation, verified, into an empty directory. If
// it fails it leaves the directory empty.
func In(ctx context.Context, step Step) (answer any, err error) {
	r, err := readRequest(step.Stdin)
	if err != nil {
		return nil, err
	}
	source, version, params := decodeSource(r), requireVersion(r), decodeInParams(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	dest, err := openDestination(step.Dir)
	if err != nil {
		return nil, err
	}
	store, err := source.open(ctx)
	if err != nil {
		return nil, err
	}
	from, _, err := source.cache(ctx, store)
	if err != nil {
		return nil, err
	}

	// Which closure is it?
	trail := source.trail(store, from)
	if err := trail.look(ctx); err != nil {
		return nil, err
	}
	generation, err := trail.find(ctx, version.Generation)
	if err != nil {
		return nil, err
	}
	if !version.names(generation.Path) {
		return nil, hint.With(fmt.Errorf("generation %d of %s is %s, not %s", generation.Number, source.Pointer, generation.Path, version.Path),
			"the version is one of another history: the pointer was deleted and begun again")
	}
	closure, err := trail.closure(ctx, generation)
	if err != nil {
		return nil, err
	}
	if err := isStill(generation, closure, from); err != nil {
		return nil, err
	}
	also, err := source.additions(ctx, step.Console, store, from, params.Also)
	if err != nil {
		return nil, err
	}

	// Fetch it, and say what it is.
	needs := params.needs(together(closure, also))
	if err := dest.hasRoom(needs); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(dest.explain(err, needs), dest.clear())
		}
	}()
	if err := fetch(ctx, step.Console, from, closure, also, params, dest); err != nil {
		return nil, err
	}
	changed, err := trail.changes(ctx, generation, closure)
	if err != nil {
		step.Console.Warn("%v", err)
	}
	changesDocument, err := json.MarshalIndent(changed, "", "  ")
	if err != nil {
		return nil, err
	}
	document, err := json.MarshalIndent(generation, "", "  ")
	if err != nil {
		return nil, err
	}
	infos := closure.Infos()
	for _, file := range []struct{ name, content string }{
		{"path", generation.Path.String() + "\n"},
		{"generation", strconv.FormatUint(generation.Number, 10) + "\n"},
		{"pointer", string(source.Pointer) + "\n"},
		{"store-paths", nixstore.StorePaths(infos)},
		{"registration", nixstore.Registration(infos)},
		{"total-nar-size", strconv.FormatInt(closure.NarSize(), 10) + "\n"},
		{"changes.txt", changed.Text(false)},
		{"changes.json", string(changesDocument) + "\n"},
		{resultFile, string(document) + "\n"},
	} {
		if err := dest.write(file.name, file.content); err != nil {
			return nil, err
		}
	}

	return Answer{*version, describe(source.Pointer, generation)}, nil
}

// isStill returns an error unless the root of a closure in a cache is what it
// was when its generation was signed.
func isStill(g pointer.Generation, closure *cache.Closure, c *cache.Cache) error {
	got := closure.RootInfo().NarHash
	if got == g.NarHash {
		return nil
	}
	return hint.With(fmt.Errorf("%s in %s is not what generation %d was: its NarHash is %s, and was %s", g.Path, c, g.Number, got, g.NarHash),
		"somebody has replaced it in the cache: find out who, before anything runs it")
}

// fetch leaves the closure in the destination, in the format that is wanted,
// with what is added to it, and tells a person how that goes.
func fetch(ctx context.Context, console *Console, from *cache.Cache, closure *cache.Closure, also []addition, params InParams, dest destination) error {
	what, size := "the closure of "+closure.Root.String(), amount(len(closure.Paths), closure.NarSize())
	switch params.Format {
	case formatNone:
		return nil
	case formatResult:
		what, size = closure.Root.String(), formatBytes(closure.RootInfo().NarSize)
	}
	console.Say("fetching %s (%s) from %s", what, size, from)
	meter := new(cache.Meter)
	defer drawProgress(console, "fetching", meter)()
	switch params.Format {
	case formatCache:
		return from.Copy(ctx, closure, blob.NewDirectory(dest.path("cache")), meter)
	case formatResult:
		return fetchResult(ctx, console, from, closure, meter, dest)
	case formatArchive:
		return fetchArchive(ctx, console, from, closure, params.Compression, meter, dest)
	}
	return fetchImage(ctx, from, together(closure, also), also, meter, dest)
}

// fetchImage leaves a closure, which the additions are part of, in the
// destination as a task's image.
func fetchImage(ctx context.Context, from *cache.Cache, closure *cache.Closure, also []addition, meter *cache.Meter, dest destination) error {
	root, err := nixstore.CreateRoot(dest.path("rootfs"))
	if err != nil {
		return err
	}
	if err := from.Fetch(ctx, closure, root, meter); err != nil {
		return err
	}
	if err := root.Register(ctx, closure.Infos()); err != nil {
		return err
	}
	return makeImage(dest, closure, also)
}
