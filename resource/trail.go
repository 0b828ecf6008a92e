package resource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A trail is a pointer and the cache that its generations lead into: what it
// takes to tell what a generation changes against the one before.
type trail struct {
	name    pointer.Name
	store   blob.Store
	pointer *pointer.Pointer
	cache   *cache.Cache

	history *pointer.History // as look has found it
	known   *cache.Closure   // the last one that closure has asked for
}

func (s *Source) trail(store blob.Store, leadsInto *cache.Cache) *trail {
	return &trail{name: s.Pointer, store: store, pointer: s.pointer(store), cache: leadsInto}
}

// look reads the pointer's history.
func (t *trail) look(ctx context.Context) (err error) {
	t.history, err = t.pointer.Read(ctx)
	return err
}

// lookToMove is look for who is about to move the pointer.
func (t *trail) lookToMove(ctx context.Context) (err error) {
	t.history, err = t.pointer.Look(ctx)
	return err
}

// find returns a generation, as it was when look was called.
func (t *trail) find(ctx context.Context, number uint64) (pointer.Generation, error) {
	return t.pointer.FindIn(ctx, t.history, number)
}

// closure returns the closure of a generation, as the cache has it.
func (t *trail) closure(ctx context.Context, g pointer.Generation) (_ *cache.Closure, err error) {
	if t.known == nil || t.known.Root != g.Path {
		t.known, err = t.cache.Closure(ctx, g.Path)
	}
	return t.known, err
}

// previous returns the closure that the pointer led to, if that can be had.
func (t *trail) previous(ctx context.Context) []*cache.Closure {
	newest, ok := t.history.Newest()
	if !ok {
		return nil
	}
	closure, err := t.closure(ctx, newest)
	if err != nil {
		return nil
	}
	return []*cache.Closure{closure}
}

// anticipate begins to read what previous will ask for.
func (t *trail) anticipate(ctx context.Context) {
	if newest, ok := t.history.Newest(); ok {
		t.cache.Anticipate(ctx, newest.Path)
	}
}

// changes tells what g, whose closure that is, changes against the generation
// before. If there is an error they can't be compared, and the result, which
// isn't nil all the same, says no more than that of a pointer's first generation.
func (t *trail) changes(ctx context.Context, g pointer.Generation, closure *cache.Closure) (*changes.Changes, error) {
	after := side(g, closure)
	if g.Number == 1 {
		return changes.Compare(changes.Closure{}, after), nil
	}
	before, err := t.find(ctx, g.Number-1)
	if err == nil {
		var old *cache.Closure
		if old, err = t.closure(ctx, before); err == nil {
			return changes.Compare(side(before, old), after), nil
		}
	}
	return changes.Compare(changes.Closure{}, after), fmt.Errorf("what generation %d changes can't be told: %w", g.Number, err)
}

func side(g pointer.Generation, closure *cache.Closure) changes.Closure {
	return changes.Closure{Generation: g.Number, Root: g.Path, Revision: g.Details.Revision, Infos: closure.Infos()}
}

// move makes a closure, which is in the cache, the newest generation. It tells
// what that changes in the generation's details and in an object of the cache,
// and returns it; nil if nothing has moved.
//
// What a generation changes is signed with it. So if the pointer has moved since
// it was looked at, all begins again, unless the proposal wants it where it was.
func (t *trail) move(ctx context.Context, console *Console, proposal pointer.Proposal, closure *cache.Closure) (pointer.Outcome, *changes.Changes, error) {
	for {
		outcome, changed, err := t.moveFromHere(ctx, console, proposal, closure)
		var moved *pointer.MovedError
		if proposal.IfGeneration != nil || !errors.As(err, &moved) {
			return outcome, changed, err
		}
		if err := t.lookToMove(ctx); err != nil {
			return pointer.Outcome{}, nil, err
		}
	}
}

// moveFromHere is move, if the pointer is where it was when it was looked at;
// else, the error wraps a pointer.MovedError.
func (t *trail) moveFromHere(ctx context.Context, console *Console, proposal pointer.Proposal, closure *cache.Closure) (pointer.Outcome, *changes.Changes, error) {
	newest, _ := t.history.Newest()
	if proposal.IfGeneration == nil {
		proposal.IfGeneration = &newest.Number
	}
	proposal.Seen = t.history
	isNew := newest.Path != proposal.Path || newest.NarHash != proposal.NarHash
	var changed *changes.Changes
	var unknown error
	if isNew {
		next := pointer.Generation{Number: newest.Number + 1, Path: proposal.Path, Details: proposal.Details}
		changed, unknown = t.changes(ctx, next, closure)
		proposal.Details.Changes = changed.Summary()
		meanwhile := proposal.Meanwhile
		proposal.Meanwhile = func(ctx context.Context, g pointer.Generation) {
			var both sync.WaitGroup
			both.Go(func() { t.write(ctx, console, changed, unknown) })
			if meanwhile != nil {
				meanwhile(ctx, g)
			}
			both.Wait()
		}
	}
	outcome, err := t.pointer.Append(ctx, proposal)
	switch {
	case err != nil:
		return outcome, nil, err
	case outcome.Moved:
		return outcome, changed, nil
	case !isNew && !t.written(ctx, newest):
		// The put that made it was cut short here: this one finishes it.
		changed, unknown = t.changes(ctx, newest, closure)
		t.write(ctx, console, changed, unknown)
	}
	return outcome, nil, nil
}

// write leaves in the cache what a generation changes, unless that is unknown.
// It is for people to read: that it can't be done is no reason to fail.
func (t *trail) write(ctx context.Context, console *Console, changed *changes.Changes, unknown error) {
	if unknown == nil {
		unknown = changed.Write(ctx, t.store, string(t.name))
	}
	if unknown != nil {
		console.Warn("%v", unknown)
	}
}

// written says whether the cache has what a generation changes.
func (t *trail) written(ctx context.Context, g pointer.Generation) bool {
	_, err := t.store.Stat(ctx, changes.Key(string(t.name), g.Number))
	return !errors.Is(err, blob.ErrNotExist)
}

// sayChanges prints what changed.
func (c *Console) sayChanges(changed *changes.Changes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, c.erase()+c.startLine()+changed.Text(c.live))
}
