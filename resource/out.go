package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// OutParams are the params of a put. Exactly one of File, Path and PathFrom is
// set.
type OutParams struct {
	File, Attribute string        // a Nix expression in the inputs
	Path            nix.StorePath // in the local store
	PathFrom        string        // what in the inputs leads to a store path

	Message      string
	IfGeneration string // a number, or the directory of a get; empty: whatever is the newest
}

// decodeOutParams takes the params of a put.
func decodeOutParams(r *request) OutParams {
	o := r.object("params")
	defer o.finish()
	p := OutParams{
		File:         parsed(o, "file", parseInput),
		Attribute:    o.text("attribute"),
		Message:      parsed(o, "message", parseMessage),
		IfGeneration: o.textOrNumber("if_generation"),
	}
	if path := parsed(o, "store_path", parseInput); strings.HasPrefix(path, "/") {
		p.Path = parsed(o, "store_path", nix.ParseStorePath)
	} else {
		p.PathFrom = path
	}
	switch file, path := o.has("file"), o.has("store_path"); {
	case file && path:
		o.failWith("", hint.With(errors.New("file and store_path are two closures, and a put publishes one"), "remove one of them"))
	case !file && !path:
		o.failWith("", hint.With(errors.New("they don't say what to publish"),
			"name a Nix expression in an input (file: config/default.nix, attribute: web-1), or a path (store_path: built/result)"))
	case !file && p.Attribute != "":
		o.failWith("attribute", errors.New("an attribute of which expression? want file, too"))
	}
	return p
}

func parseInput(s string) (string, error) {
	if s == "" {
		return "", errors.New("it is empty")
	}
	return s, nil
}

func parseMessage(s string) (string, error) {
	if len(s) > pointer.MaxMessage {
		return "", fmt.Errorf("it has %d bytes, and may have %d", len(s), pointer.MaxMessage)
	}
	return s, nil
}

// Out publishes a closure: it pushes it to the cache and moves the pointer. It
// can be repeated, and interrupted, at any time.
func Out(ctx context.Context, step Step) (any, error) {
	if err := nixstore.ProtectProcess(); err != nil {
		return nil, err
	}
	r, err := readRequest(step.Stdin)
	if err != nil {
		return nil, err
	}
	source, params := decodeSource(r), decodeOutParams(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	store, err := source.open(ctx)
	if err != nil {
		return nil, err
	}
	to, upstreams, err := source.cache(ctx, store)
	if err != nil {
		return nil, err
	}
	trail := source.trail(store, to)
	if err := trail.pointer.Writable(); err != nil {
		return nil, err
	}
	inputs, err := openInputs(step.Dir)
	if err != nil {
		return nil, err
	}
	defer inputs.Close()
	what, err := whatToPublish(inputs, params)
	if err != nil {
		return nil, err
	}
	ifGeneration, err := inputs.ifGeneration(params.IfGeneration)
	if err != nil {
		return nil, err
	}
	if err := trail.look(ctx); err != nil {
		return nil, err
	}

	// What to publish: build it, unless it is there.
	local, err := nixstore.Open(ctx, nixstore.Options{Log: step.Console})
	if err != nil {
		return nil, err
	}
	root, err := what.realise(ctx, local)
	if err != nil {
		return nil, err
	}
	infos, err := local.Closure(ctx, root)
	if err != nil {
		return nil, err
	}
	if what.path.IsZero() { // building may have taken hours
		if err := trail.look(ctx); err != nil {
			return nil, err
		}
	}

	// Push it.
	pushed, err := push(ctx, step.Console, to, cache.PushRequest{
		Root: root, Infos: infos, Source: local, Previous: trail.previous(ctx), Upstreams: upstreams,
	})
	if err != nil {
		return nil, err
	}

	// Move the pointer.
	sizes := pointer.Sizes{Paths: len(pushed.Closure.Paths), NarSize: pushed.Closure.NarSize()}
	outcome, changed, err := trail.move(ctx, step.Console, pointer.Proposal{
		Path:    root,
		System:  system(local.RealPath(root)),
		NarHash: pushed.Closure.RootInfo().NarHash,
		Details: pointer.Details{
			Provenance: provenance(step.Getenv, source.Provenance),
			Revision:   revisionOf(inputs.dir, cmp.Or(params.File, filepath.Dir(params.PathFrom))),
			Message:    params.Message,
			Sizes:      sizes,
		},
		IfGeneration: ifGeneration,
	}, pushed.Closure)
	if releaseErr := pushed.Release(ctx); releaseErr != nil {
		step.Console.Warn("the lease of this push stays in the cache: %v", releaseErr)
	}
	if err != nil {
		return nil, err
	}

	// Say so.
	sayOutcome(step.Console, source.Pointer, outcome)
	if changed != nil {
		step.Console.sayChanges(changed)
	}
	metadata := describe(source.Pointer, outcome.Generation)
	metadata.add("sent", sent(pushed))
	metadata.add("already there", amount(sizes.Paths-pushed.SentPaths, sizes.NarSize-pushed.SentNarSize))
	tellUpstreams(step.Console, &metadata, to, pushed.Closure)
	return Answer{versionOf(outcome.Generation), metadata}, nil
}

// A subject is what a put publishes: a path of the local store, or what is yet
// to be built.
type subject struct {
	path       nix.StorePath
	expression nixstore.Expression
}

// whatToPublish finds out what the params name.
func whatToPublish(in *inputs, p OutParams) (s subject, err error) {
	switch {
	case p.File != "":
		s.expression.Attribute = p.Attribute
		if s.expression.File, err = in.path(p.File); err != nil {
			err = fmt.Errorf("params.file: %w", err)
		}
	case p.PathFrom != "":
		if s.path, err = in.storePath(p.PathFrom); err != nil {
			err = fmt.Errorf("params.store_path: %w", err)
		}
	default:
		s.path = p.Path
	}
	return s, err
}

// realise returns the path, having built it if need be.
func (s subject) realise(ctx context.Context, local *nixstore.Store) (nix.StorePath, error) {
	if s.path.IsZero() {
		return local.Build(ctx, s.expression)
	}
	return s.path, nil
}

// push pushes a closure, and tells a person how that goes.
func push(ctx context.Context, console *Console, to *cache.Cache, req cache.PushRequest) (*cache.Pushed, error) {
	console.Say("pushing the closure of %s (%s) to %s", req.Root, amount(len(req.Infos), narSize(req.Infos)), to)
	req.Meter = new(cache.Meter)
	stop := drawProgress(console, "pushing", req.Meter)
	pushed, err := to.Push(ctx, req)
	stop()
	if err != nil {
		return nil, err
	}
	console.Say("sent %s", sent(pushed))
	if n := len(pushed.Unreproducible); n > 0 {
		console.Warn("the cache has %s with another content than the local store, and hosts will run the cache's: %v", count(n, "path"), pushed.Unreproducible)
	}
	return pushed, nil
}

// narSize is the size of all the NARs, in bytes.
func narSize(infos []nix.PathInfo) (size int64) {
	for i := range infos {
		size += infos[i].NarSize
	}
	return size
}

// sent is, say, "12 paths, 81.4 MiB (27.1 MiB compressed)".
func sent(p *cache.Pushed) string {
	if p.SentPaths == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%s (%s compressed)", amount(p.SentPaths, p.SentNarSize), formatBytes(p.SentBytes))
}

func sayOutcome(console *Console, name pointer.Name, outcome pointer.Outcome) {
	g := outcome.Generation
	switch {
	case outcome.Moved:
		console.Say("%s moved to generation %d: %s", name, g.Number, g.Path)
	case outcome.Renewed:
		console.Say("%s stays at generation %d, which was renewed: %s", name, g.Number, g.Path)
	default:
		console.Say("%s stays at generation %d: %s", name, g.Number, g.Path)
	}
}

// system is what a closure runs on: a NixOS system says so; anything else was
// built here, for a machine like this one.
func system(root string) string {
	if s := firstLine(filepath.Join(root, "system")); systemName.MatchString(s) {
		return s
	}
	architectures := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}
	return cmp.Or(architectures[runtime.GOARCH], runtime.GOARCH) + "-" + runtime.GOOS
}

var systemName = regexp.MustCompile(`^[A-Za-z0-9_]{1,30}-[A-Za-z0-9_]{1,30}$`)
