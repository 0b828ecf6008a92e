package site

import (
	"context"
	"fmt"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A Pointer is a pointer of a site, together with the cache that its generations
// lead into.
type Pointer struct {
	*pointer.Pointer
	Name pointer.Name
	site *Site
}

// Closure returns the closure of a generation, as the cache has it, whole and
// acceptable. It fails if the root is not what it was when the generation was
// signed.
func (p *Pointer) Closure(ctx context.Context, g pointer.Generation) (*cache.Closure, error) {
	closure, err := p.site.Cache.Closure(ctx, g.Path)
	if err != nil {
		return nil, err
	}
	return closure, CheckUnchanged(g, closure.RootInfo(), p.site.Cache)
}

// CheckUnchanged returns an error unless the root of a generation's closure in a
// cache is what it was when the generation was signed.
func CheckUnchanged(g pointer.Generation, root *cache.NarInfo, c *cache.Cache) error {
	if root.NarHash == g.NarHash {
		return nil
	}
	return hint.With(fmt.Errorf("%s in %s is not what generation %d was: its NarHash is %s, and was %s", g.Path, c, g.Number, root.NarHash, g.NarHash),
		"somebody has replaced it in the cache: find out who, before anything runs it")
}

// Changes tells what g, whose closure that is, changes against the generation
// before in the history. If there is an error they can't be compared, and the
// result, which isn't nil all the same, says no more than that of a pointer's
// first generation. Read reads the closure of the one before.
func (p *Pointer) Changes(ctx context.Context, history *pointer.History, g pointer.Generation, closure *cache.Closure, read func(context.Context, nix.StorePath) (*cache.Closure, error)) (*changes.Changes, error) {
	if g.Number == 1 {
		return Compare(nil, nil, g, closure), nil
	}
	before, err := p.FindIn(ctx, history, g.Number-1)
	if err == nil {
		var old *cache.Closure
		if old, err = read(ctx, before.Path); err == nil {
			return Compare(&before, old, g, closure), nil
		}
	}
	return Compare(nil, nil, g, closure), fmt.Errorf("what generation %d changes can't be told: %w", g.Number, err)
}

// Compare tells what a generation changes against another, given their closures.
// Before may be nil: then there was nothing.
func Compare(before *pointer.Generation, old *cache.Closure, after pointer.Generation, closure *cache.Closure) *changes.Changes {
	side := func(g pointer.Generation, c *cache.Closure) changes.Closure {
		return changes.Closure{Generation: g.Number, Root: g.Path, Revision: g.Details.Revision, Infos: c.Infos()}
	}
	if before == nil {
		return changes.Compare(changes.Closure{}, side(after, closure))
	}
	return changes.Compare(side(*before, old), side(after, closure))
}

// Warn tells what is odd about a history that can be used all the same.
func (p *Pointer) Warn(c *console.Console, history *pointer.History) {
	if history.Skipped > 0 {
		c.Warn("%s: left out %s that no accepted key has signed", p.Name, console.Count(history.Skipped, "generation"))
	}
	if newest, ok := history.Newest(); ok && newest.Expired(time.Now()) {
		c.Warn("generation %d of %s expired at %s: hosts don't start to follow it; publish its path again to renew it",
			newest.Number, p.Name, console.Time(newest.Expires))
	}
}

// A Row is one thing that a person sees of a generation.
type Row struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Rows are what a person sees of a generation: in Concourse, the metadata of a
// version.
type Rows []Row

// Add adds a row, unless there is nothing to say.
func (r *Rows) Add(name, value string) {
	if value != "" {
		*r = append(*r, Row{name, value})
	}
}

// Describe returns the rows about a generation, whoever asks.
func Describe(name pointer.Name, g pointer.Generation) Rows {
	var r Rows
	r.Add("pointer", string(name))
	r.Add("generation", fmt.Sprint(g.Number))
	r.Add("path", g.Path.String())
	r.Add("revision", g.Details.Revision)
	r.Add("message", g.Details.Message)
	if origin := g.Details.Origin; origin != nil && origin.Pointer != name { // a rollback's message says so itself
		r.Add("promoted from", fmt.Sprintf("generation %d of %s", origin.Generation, origin.Pointer))
	}
	r.Add("changes", g.Details.Changes)
	r.Add("closure", console.Amount(g.Details.Sizes.Paths, g.Details.Sizes.NarSize))
	r.Add("created", console.Time(g.Created))
	if g.Expires != 0 {
		r.Add("expires", console.Time(g.Expires))
	}
	r.Add("build", g.Details.Provenance.URL)
	return r
}
