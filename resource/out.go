package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// OutParams are the params of a put. Exactly one of a recipe, Closure, Promote,
// and Path or PathFrom is set; but a Closure may have its root named by the latter.
type OutParams struct {
	recipe
	hosts                  // of the recipe, if there are to be several
	Closure  string        // what an earlier step has handed over
	Path     nix.StorePath // in the local store, the cache or the Closure
	PathFrom string        // what in the inputs leads to a store path

	Promote    string         // the directory of a get of another pointer
	To         []pointer.Name // further pointers to promote to
	AllowOlder bool

	Message      string
	IfGeneration string // a number, or the directory of a get; empty: whatever is the newest
}

// decodeOutParams takes the params of a put.
func decodeOutParams(r *request) OutParams {
	o := r.object("params")
	defer o.finish()
	p := OutParams{
		recipe:       decodeRecipe(o),
		hosts:        decodeHosts(o),
		Closure:      parsed(o, "closure", parseInput),
		Promote:      parsed(o, "promote", parseInput),
		AllowOlder:   o.flag("allow_older", false),
		Message:      parsed(o, "message", parseMessage),
		IfGeneration: o.textOrNumber("if_generation"),
	}
	for _, name := range o.texts("to") {
		parsed, err := pointer.ParseName(name)
		if err != nil {
			o.failWith("to", err)
		} else if slices.Contains(p.To, parsed) {
			o.fail("to", "%s stands there twice", name)
		}
		p.To = append(p.To, parsed)
	}
	if path := parsed(o, "store_path", parseInput); strings.HasPrefix(path, "/") {
		p.Path = parsed(o, "store_path", nix.ParseStorePath)
	} else {
		p.PathFrom = path
	}

	var given []string
	for _, key := range []string{"file", "flake", "closure", "promote", "store_path"} {
		if o.has(key) && !(key == "store_path" && o.has("closure")) {
			given = append(given, key)
		}
	}
	switch {
	case len(given) > 1:
		number := []string{"two", "three", "four", "five"}[len(given)-2]
		o.failWith("", hint.With(fmt.Errorf("%s are %s closures, and a put publishes one", strings.Join(given, " and "), number), "keep one of them"))
	case len(given) == 0:
		o.failWith("", hint.With(errors.New("they don't say what to publish"),
			"name a flake (flake: config), a Nix expression in an input (file: config/default.nix, attribute: web-1), a path (store_path: built/result), a closure from an earlier step (closure: built/cache) or a get of another pointer (promote: web-1-candidate)"))
	}
	for _, only := range []struct{ key, with, why string }{
		{"to", "promote", "only what is promoted goes to further pointers: want promote, too"},
		{"allow_older", "promote", "older than what? want promote, too"},
	} {
		if o.has(only.key) && !o.has(only.with) {
			o.failWith(only.key, errors.New(only.why))
		}
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
	ifGeneration, err := inputs.ifGeneration(params.IfGeneration)
	if err != nil {
		return nil, err
	}
	p := publisher{
		Step: step, source: &source, store: store, here: to, inputs: inputs, params: params, ifGeneration: ifGeneration,
		targets: append(source.trails(store, to, params.To), trail),
	}
	defer p.close()
	if params.hosts.are() {
		return p.publishFleet(ctx, upstreams)
	}

	// What is to be published: build it, or find it.
	defer to.Withdraw(ctx) // of what isn't pushed after all; if that fails, its age will tell
	pub, err := p.lookAndPrepare(ctx)
	if err != nil {
		return nil, err
	}
	defer pub.close()
	if pub.built { // which may have taken hours
		if err := p.look(ctx); err != nil {
			return nil, err
		}
	}

	// Push it, as far as it isn't there.
	pushed, err := push(ctx, step.Console, to, cache.PushRequest{
		Root: pub.root, Infos: pub.infos, Source: pub.source, Previous: trail.previous(ctx), Upstreams: upstreams,
	})
	if err != nil {
		return nil, err
	}

	// Move the pointers, and say so.
	outcomes, err := p.move(ctx, pub, pushed)
	p.release(ctx, pushed)
	if err != nil {
		return nil, err
	}
	last := len(outcomes) - 1
	newest, closure := outcomes[last].Generation, pushed.Closure
	metadata := describe(source.Pointer, newest)
	for i, outcome := range outcomes[:last] {
		metadata.add("to "+string(p.targets[i].name), fmt.Sprintf("generation %d", outcome.Generation.Number))
	}
	metadata.add("sent", sent(pushed))
	metadata.add("already there", amount(len(closure.Paths)-pushed.SentPaths, closure.NarSize()-pushed.SentNarSize))
	tellUpstreams(step.Console, &metadata, to, closure)
	return Answer{versionOf(newest), metadata}, nil
}

// release gives up the leases of a push.
func (p *publisher) release(ctx context.Context, pushed *cache.Pushed) {
	if err := pushed.Release(ctx); err != nil {
		p.Console.Warn("a lease of this push stays in the cache: %v", err)
	}
}

// push pushes a closure, and tells a person how that goes.
func push(ctx context.Context, console *Console, to *cache.Cache, req cache.PushRequest) (*cache.Pushed, error) {
	what := "the closure of " + req.Root.String()
	if n := len(req.Also); n > 0 {
		what = count(n+1, "closure")
	}
	console.Say("pushing %s (%s) to %s", what, amount(len(req.Infos), narSize(req.Infos)), to)
	req.Meter = new(cache.Meter)
	stop := drawProgress(console, "pushing", req.Meter)
	pushed, err := to.Push(ctx, req)
	stop()
	if err != nil {
		return nil, err
	}
	console.Say("sent %s", sent(pushed))
	if n := len(pushed.Unreproducible); n > 0 {
		console.Warn("the cache has %s with another content than what is put, and hosts will run the cache's: %v", count(n, "path"), pushed.Unreproducible)
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
