package publish

import (
	"context"
	"errors"
	"fmt"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// A Target is a pointer that is about to move, with what was read of it.
type Target struct {
	*site.Pointer
	History *pointer.History // as Read has found it

	site  *site.Site
	known *cache.Closure // one that the cache was found to have, whole
}

// NewTarget returns a pointer of a site as a target. It makes no request.
func NewTarget(s *site.Site, name pointer.Name) *Target {
	return &Target{Pointer: s.Pointer(name), site: s}
}

// Read reads the pointer's history.
func (t *Target) Read(ctx context.Context) (err error) {
	t.History, err = t.Look(ctx)
	return err
}

// Known tells the target of a closure that the cache was found to have.
func (t *Target) Known(closure *cache.Closure) { t.known = closure }

// KnownClosure is the last closure that the target was told of, or has read.
func (t *Target) KnownClosure() *cache.Closure { return t.known }

// Previous returns the closure that the pointer's newest generation leads to; nil
// if there is none, or it can't be had.
func (t *Target) Previous(ctx context.Context) *cache.Closure {
	newest, ok := t.History.Newest()
	if !ok {
		return nil
	}
	closure, err := t.closure(ctx, newest.Path)
	if err != nil {
		return nil
	}
	return closure
}

// closure returns the closure of a path that the pointer leads, or led, to.
func (t *Target) closure(ctx context.Context, root nix.StorePath) (*cache.Closure, error) {
	if t.known == nil || t.known.Root != root {
		closure, err := t.site.Cache.Closure(ctx, root)
		if err != nil {
			return nil, err
		}
		t.known = closure
	}
	return t.known, nil
}

// CheckCondition returns an error if the pointer may not move to root because its
// newest generation isn't the one that is wanted. That of root itself is always
// right: nothing moves then. A root that isn't known yet, which is zero, may be that.
func (t *Target) CheckCondition(want *uint64, root nix.StorePath) error {
	newest, _ := t.History.Newest()
	if want == nil || *want == newest.Number || root.IsZero() || newest.Path == root {
		return nil
	}
	return hint.With(fmt.Errorf("%s has moved: %w", t.Pointer, &pointer.MovedError{Want: *want, Got: newest.Number}),
		"look at what it has moved to, and %s without %s or with the new number", hint.Term("put again"), hint.Term("if_generation"))
}

// Move makes a closure, which is in the cache, the newest generation. It tells
// what that changes in the generation's details and in an object of the cache,
// and returns it; nil if nothing has moved.
//
// What a generation changes is signed with it. So if the pointer has moved since
// it was read, all begins again, unless the proposal wants it where it was.
func (t *Target) Move(ctx context.Context, c *console.Console, proposal pointer.Proposal, closure *cache.Closure) (pointer.Outcome, *changes.Changes, error) {
	for {
		outcome, changed, err := t.moveOnce(ctx, c, proposal, closure)
		var moved *pointer.MovedError
		if proposal.IfGeneration != nil || !errors.As(err, &moved) {
			return outcome, changed, err
		}
		if overwritten := (*pointer.OverwrittenError)(nil); errors.As(err, &overwritten) {
			c.Warn("%s: %v, and it is made again: the store's conditional writes are not atomic, or somebody makes none", t.Name, overwritten)
		}
		if err := t.Read(ctx); err != nil {
			return pointer.Outcome{}, nil, err
		}
	}
}

// moveOnce is Move, if the pointer is where it was when it was read; else, the
// error wraps a pointer.MovedError.
func (t *Target) moveOnce(ctx context.Context, c *console.Console, proposal pointer.Proposal, closure *cache.Closure) (pointer.Outcome, *changes.Changes, error) {
	newest, _ := t.History.Newest()
	if proposal.IfGeneration == nil {
		proposal.IfGeneration = &newest.Number
	}
	proposal.Seen = t.History
	if newest.Path == proposal.Path && newest.NarHash == proposal.NarHash {
		outcome, err := t.Append(ctx, proposal)
		if err == nil && !outcome.Moved && !t.hasChanges(ctx, newest) {
			// The run that made it was cut short here: this one finishes it.
			changed, unknown := t.changes(ctx, newest, closure)
			t.writeChanges(ctx, c, changed, unknown)
		}
		return outcome, nil, err
	}
	next := pointer.Generation{Number: newest.Number + 1, Path: proposal.Path, Details: proposal.Details}
	changed, unknown := t.changes(ctx, next, closure)
	proposal.Details.Changes = changed.Summary()
	proposal.Meanwhile = func(ctx context.Context, _ pointer.Generation) { t.writeChanges(ctx, c, changed, unknown) }
	outcome, err := t.Append(ctx, proposal)
	if err != nil || !outcome.Moved {
		changed = nil
	}
	return outcome, changed, err
}

// changes tells what a generation changes against the one before.
func (t *Target) changes(ctx context.Context, g pointer.Generation, closure *cache.Closure) (*changes.Changes, error) {
	return t.Changes(ctx, t.History, g, closure, t.closure)
}

// writeChanges leaves in the cache what a generation changes, unless that is
// unknown. It is for people to read: that it can't be done is no reason to fail.
func (t *Target) writeChanges(ctx context.Context, c *console.Console, changed *changes.Changes, unknown error) {
	if unknown == nil {
		unknown = changed.Write(ctx, t.site.Store, string(t.Name))
	}
	if unknown != nil {
		c.Warn("%v", unknown)
	}
}

// hasChanges says whether the cache has what a generation changes.
func (t *Target) hasChanges(ctx context.Context, g pointer.Generation) bool {
	_, err := t.site.Store.Stat(ctx, changes.Key(string(t.Name), g.Number))
	return !errors.Is(err, blob.ErrNotExist)
}

// DropsMessage says whether a message is nowhere, because the pointer has no new
// generation.
func DropsMessage(message string, outcome pointer.Outcome) bool {
	return message != "" && !outcome.Moved && outcome.Generation.Details.Message != message
}

// MessageDropped tells a person that DropsMessage.
const MessageDropped = "the message is not recorded: where nothing moves, there is no new generation to have it"

// SayOutcome tells a person what became of a pointer.
func SayOutcome(c *console.Console, name pointer.Name, outcome pointer.Outcome) {
	g := outcome.Generation
	if r := outcome.Replaced; r != nil {
		c.Warn("somebody else made generation %d of %s (%s) while this was in the making: generation %d replaces it", r.Number, name, r.Path, g.Number)
	}
	switch {
	case outcome.Moved:
		c.Say("%s moved to generation %d: %s", name, g.Number, g.Path)
	case outcome.Renewed:
		c.Say("%s stays at generation %d, which was renewed: %s", name, g.Number, g.Path)
	default:
		c.Say("%s stays at generation %d: %s", name, g.Number, g.Path)
	}
}
