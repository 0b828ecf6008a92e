package publish

import (
	"context"
	"fmt"

	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// A RollbackRequest says which pointer goes back, and where to.
type RollbackRequest struct {
	Site    *site.Site
	Console *console.Console

	Pointer pointer.Name
	To      uint64 // a generation's number; 0: the last before the newest that has another path
	Reason  string // for those who read the history
}

// Rollback makes the path of an earlier generation the newest again, under the
// next number. Where it is to find the generation by itself, one that was itself a
// rollback stands for the one that it went back to: several rollbacks in a row go
// back further and further. The earlier generation is recorded as the origin of
// the new one, with the reason. Nothing is built or uploaded.
func Rollback(ctx context.Context, r RollbackRequest) (*Move, error) {
	t := NewTarget(r.Site, r.Pointer)
	if err := t.Writable(); err != nil {
		return nil, err
	}
	if err := t.Read(ctx); err != nil {
		return nil, err
	}
	newest, err := t.FindIn(ctx, t.History, 0)
	if err != nil {
		return nil, err
	}
	number := r.To
	if number == 0 {
		if number, err = t.before(newest); err != nil {
			return nil, err
		}
	}
	g, err := t.FindIn(ctx, t.History, number)
	if err != nil {
		return nil, err
	}
	closure, err := t.closure(ctx, g.Path)
	if err != nil {
		return nil, err
	}
	if err := site.CheckUnchanged(g, closure.RootInfo(), r.Site.Cache); err != nil {
		return nil, err
	}
	origin := &pointer.Origin{Pointer: r.Pointer, Generation: g.Number}
	if r.Site.RequireSigs {
		if origin, err = g.Origin(r.Pointer, r.Site.PointerPublicKeys); err != nil {
			return nil, err
		}
	}
	message := fmt.Sprintf("back to generation %d", g.Number)
	if r.Reason != "" {
		message += ": " + r.Reason
	}
	outcome, changed, err := t.Move(ctx, r.Console, pointer.Proposal{
		Path:    g.Path,
		System:  g.System,
		NarHash: g.NarHash,
		Details: pointer.Details{
			Revision: g.Details.Revision,
			Origin:   origin,
			Message:  message,
			Sizes:    pointer.Sizes{Paths: len(closure.Paths), NarSize: closure.NarSize()},
		},
		IfGeneration: &newest.Number,
		AllowOlder:   true,
	}, closure)
	if err != nil {
		return nil, err
	}
	SayOutcome(r.Console, r.Pointer, outcome)
	if changed != nil {
		r.Console.Text(changed.Text(r.Console.Colour()))
	}
	return &Move{r.Pointer, outcome}, nil
}

// before returns the number of the generation that a rollback goes back to by
// itself.
func (t *Target) before(newest pointer.Generation) (uint64, error) {
	current := newest.Number
	if number, ok := t.WentBack(t.History, newest); ok {
		current = number
	}
	for _, g := range t.History.Generations {
		if g.Number < current && g.Path != newest.Path {
			return g.Number, nil
		}
	}
	return 0, hint.With(fmt.Errorf("%s has no generation before %d with another path", t.Pointer, current),
		"name the one to go back to by its number; history lists them")
}
