package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// An Engine is a source at work for people: what they ask of a pointer besides
// what Concourse asks of it by Check, In and Out.
type Engine struct {
	source  Source
	console *Console
	trail   *trail
}

// Open opens what a source, in JSON, describes. It makes no request.
func Open(ctx context.Context, source json.RawMessage, console *Console) (*Engine, error) {
	r := &request{fields: map[string]json.RawMessage{"source": source}}
	e := &Engine{source: decodeSource(r), console: console}
	if err := r.err(); err != nil {
		return nil, err
	}
	store, err := e.source.open(ctx)
	if err != nil {
		return nil, err
	}
	leadsInto, _, err := e.source.cache(ctx, store)
	if err != nil {
		return nil, err
	}
	e.trail = e.source.trail(store, leadsInto)
	return e, nil
}

// IsMistake says whether err is about what a request says: nothing was done.
func IsMistake(err error) bool {
	var m mistakes
	return errors.As(err, &m)
}

// Pointer is the pointer's name.
func (e *Engine) Pointer() pointer.Name { return e.source.Pointer }

// Followed are the pointer, the cache that it leads into, and where both are kept,
// for a host that follows it.
func (e *Engine) Followed() (*pointer.Pointer, *cache.Cache, blob.Store) {
	return e.trail.pointer, e.trail.cache, e.trail.store
}

// History returns the pointer's history, which has a generation at least, and
// warns of what is odd about it.
func (e *Engine) History(ctx context.Context) (*pointer.History, error) {
	if err := e.trail.look(ctx); err != nil {
		return nil, err
	}
	if _, ok := e.trail.history.Newest(); !ok {
		_, err := e.trail.find(ctx, 1)
		return nil, err
	}
	warnOf(e.console, e.source.Pointer, e.trail.history)
	return e.trail.history, nil
}

// Generation returns a generation; 0 is the newest.
func (e *Engine) Generation(ctx context.Context, number uint64) (pointer.Generation, error) {
	history, err := e.History(ctx)
	if err != nil {
		return pointer.Generation{}, err
	}
	if newest, _ := history.Newest(); number == 0 {
		return newest, nil
	}
	return e.trail.find(ctx, number)
}

// Describe says of a generation of the pointer what a build's page would.
func (e *Engine) Describe(g pointer.Generation) Metadata { return describe(e.source.Pointer, g) }

// Changes tells what a generation changed against the one before.
func (e *Engine) Changes(ctx context.Context, g pointer.Generation) (*changes.Changes, error) {
	closure, err := e.trail.closure(ctx, g)
	if err != nil {
		return nil, err
	}
	return e.trail.changes(ctx, g, closure)
}

// Compare tells what after, of this pointer, changes against before, of this or
// another one that leads into the same cache.
func (e *Engine) Compare(ctx context.Context, before, after pointer.Generation) (*changes.Changes, error) {
	var sides [2]changes.Closure
	for i, g := range []pointer.Generation{before, after} {
		closure, err := e.trail.closure(ctx, g)
		if err != nil {
			return nil, err
		}
		sides[i] = side(g, closure)
	}
	return changes.Compare(sides[0], sides[1]), nil
}

// Rollback makes the path of an earlier generation the newest again, under the
// next number. The generation to go back to is that of the number; for 0, the
// last before the newest that has another path, where a generation that was
// itself a rollback stands for the one that it went back to. It is recorded as
// the origin of the new one, with the reason.
func (e *Engine) Rollback(ctx context.Context, number uint64, reason string, getenv func(string) string) (Answer, error) {
	if err := e.trail.pointer.Writable(); err != nil {
		return Answer{}, err
	}
	history, err := e.History(ctx)
	if err != nil {
		return Answer{}, err
	}
	newest, _ := history.Newest()
	if number == 0 {
		if number, err = e.before(history); err != nil {
			return Answer{}, err
		}
	}
	g, err := e.trail.find(ctx, number)
	if err != nil {
		return Answer{}, err
	}
	closure, err := e.trail.closure(ctx, g)
	if err != nil {
		return Answer{}, err
	}
	if err := isStill(g, closure, e.trail.cache); err != nil {
		return Answer{}, err
	}
	origin := &pointer.Origin{Pointer: e.source.Pointer, Generation: g.Number}
	if e.source.RequireSigs {
		if origin, err = g.Origin(e.source.Pointer, e.source.PointerPublicKeys); err != nil {
			return Answer{}, err
		}
	}
	message := fmt.Sprintf("back to generation %d", g.Number)
	if reason != "" {
		message += ": " + reason
	}
	outcome, changed, err := e.trail.move(ctx, e.console, pointer.Proposal{
		Path:    g.Path,
		System:  g.System,
		NarHash: g.NarHash,
		Details: pointer.Details{
			Provenance: provenance(getenv, e.source.Provenance),
			Revision:   g.Details.Revision,
			Origin:     origin,
			Message:    message,
			Sizes:      pointer.Sizes{Paths: len(closure.Paths), NarSize: closure.NarSize()},
		},
		IfGeneration: &newest.Number,
		AllowOlder:   true,
	}, closure)
	if err != nil {
		return Answer{}, err
	}
	sayOutcome(e.console, e.source.Pointer, outcome)
	if changed != nil {
		e.console.sayChanges(changed)
	}
	return Answer{versionOf(outcome.Generation), e.Describe(outcome.Generation)}, nil
}

// before returns the number of the generation that a rollback goes back to.
func (e *Engine) before(history *pointer.History) (uint64, error) {
	newest, _ := history.Newest()
	current := newest.Number
	if origin := newest.Details.Origin; origin != nil && origin.Pointer == e.source.Pointer {
		current = origin.Generation
	}
	for _, g := range history.Generations {
		if g.Number < current && g.Path != newest.Path {
			return g.Number, nil
		}
	}
	return 0, hint.With(fmt.Errorf("%s has no generation before %d with another path", e.trail.pointer, current),
		"name the one to go back to by its number; history lists them")
}

// A Finding is what was found of a generation's closure.
type Finding struct {
	Generation   pointer.Generation
	Verification cache.Verification
}

// Verify looks at the closures of generations as a host's Nix would, and, if
// deep, downloads them. Damage is not an error, but a finding.
func (e *Engine) Verify(ctx context.Context, generations []pointer.Generation, deep bool) ([]Finding, error) {
	roots := make([]nix.StorePath, len(generations))
	for i, g := range generations {
		roots[i] = g.Path
	}
	meter := new(cache.Meter)
	if deep {
		defer drawProgress(e.console, "verifying", meter)()
	}
	verifications, err := e.trail.cache.Verify(ctx, roots, deep, meter)
	if err != nil {
		return nil, err
	}
	findings := make([]Finding, len(generations))
	for i, v := range verifications {
		g := generations[i]
		if !v.NarHash.IsZero() && v.NarHash != g.NarHash {
			v.Damage = append(v.Damage, cache.Damage{Path: g.Path, Keep: true, Err: hint.With(
				fmt.Errorf("%s is not what generation %d was: its NarHash is %s, and was %s", g.Path, g.Number, v.NarHash, g.NarHash),
				"somebody has replaced it in the cache: find out who, before anything runs it")})
		}
		findings[i] = Finding{g, v}
	}
	return findings, nil
}

// Candidate leaves in a directory what a promotion takes of a get: a generation
// of another pointer, from where the source says that promotions come from; 0 is
// the newest.
func (e *Engine) Candidate(ctx context.Context, name pointer.Name, number uint64, dir string) error {
	from, store := &e.source.From, e.trail.store
	if from.Cache.store != nil {
		var err error
		if store, err = blob.Open(ctx, from.Cache.store, from.Access); err != nil {
			return fmt.Errorf("source.from: %w", err)
		}
	}
	p := pointer.New(store, pointer.Config{Name: name, PublicKeys: from.PointerPublicKeys, RequireSigs: from.RequireSigs})
	history, err := p.Read(ctx)
	if err != nil {
		return err
	}
	if newest, ok := history.Newest(); ok && number == 0 {
		number = newest.Number
	}
	g, err := p.FindIn(ctx, history, max(1, number))
	if err != nil {
		return err
	}
	document, err := json.Marshal(g)
	if err != nil {
		return err
	}
	got := destination{dir}
	return errors.Join(got.write("pointer", string(name)+"\n"), got.write(resultFile, string(document)))
}
