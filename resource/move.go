package resource

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// trails are those of further pointers, under the terms of the source's.
func (s *Source) trails(store blob.Store, here *cache.Cache, names []pointer.Name) []*trail {
	var trails []*trail
	for _, name := range names {
		other := *s
		other.Pointer = name
		trails = append(trails, other.trail(store, here))
	}
	return trails
}

// look reads the histories of all targets, side by side.
func (p *publisher) look(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(maxLooks)
	for _, target := range p.targets {
		group.Go(func() error { return target.lookToMove(ctx) })
	}
	return group.Wait()
}

// move makes a publication that was pushed the newest generation of all targets,
// one after the other, and says so. It returns what became of them. If one
// fails, the error says which have moved.
func (p *publisher) move(ctx context.Context, pub *publication, pushed *cache.Pushed) ([]pointer.Outcome, error) {
	if err := pub.accepts(pushed); err != nil {
		return nil, err
	}
	var outcomes []pointer.Outcome
	for i, target := range p.targets {
		proposal := p.proposal(target, pub, pushed.Closure)
		if i == len(p.targets)-1 { // then all lead to the closure
			proposal.Meanwhile = func(ctx context.Context, _ pointer.Generation) { p.release(ctx, pushed) }
		}
		outcome, changed, err := target.move(ctx, p.Console, proposal, pushed.Closure)
		if err != nil && len(p.targets) > 1 {
			err = hint.With(fmt.Errorf("%w (of this wave, done: %s; failed: %s; still to come: %s)",
				err, names(p.targets[:i]), target.name, names(p.targets[i+1:])),
				"put again: those that are done stay, and the others follow")
		}
		if err != nil {
			return nil, err
		}
		sayOutcome(p.Console, target.name, outcome)
		if changed != nil && i == len(p.targets)-1 { // in a wave, they are much the same
			p.Console.sayChanges(changed)
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes, nil
}

// proposal is what a target is to have as its newest generation. The condition
// is that of the source's pointer alone.
func (p *publisher) proposal(target *trail, pub *publication, closure *cache.Closure) pointer.Proposal {
	proposal := pointer.Proposal{
		Path:       pub.root,
		System:     pub.system,
		NarHash:    closure.RootInfo().NarHash,
		Details:    pub.details,
		AllowOlder: p.params.AllowOlder,
		Seen:       target.history,
	}
	proposal.Details.Provenance = provenance(p.Getenv, p.source.Provenance)
	proposal.Details.Sizes = pointer.Sizes{Paths: len(closure.Paths), NarSize: closure.NarSize()}
	if target.name == p.source.Pointer {
		proposal.IfGeneration = p.ifGeneration
	}
	return proposal
}

// names lists pointers for a person.
func names(trails []*trail) string {
	if len(trails) == 0 {
		return "none"
	}
	names := make([]string, len(trails))
	for i, t := range trails {
		names[i] = string(t.name)
	}
	return strings.Join(names, ", ")
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
