package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// read reads the pointer, by one request, and returns its newest generation if
// this host may follow it. What was verified is on disk then, whatever becomes of
// it.
func (r *run) read(ctx context.Context) (pointer.Generation, error) {
	if name := r.host.Pointer.Name(); r.state.Pointer != name {
		r.state.forget(name)
	}
	history, err := r.requestHistory(ctx)
	if errors.Is(err, pointer.ErrInvalid) {
		return pointer.Generation{}, ends(Refused, ID{}, "%v", err)
	}
	if err != nil && ctx.Err() == nil {
		return pointer.Generation{}, ends(Unreachable, ID{}, "the pointer can't be read: %v", err)
	}
	if err != nil {
		return pointer.Generation{}, err
	}
	seen, err := r.seen()
	if err != nil {
		return pointer.Generation{}, err
	}
	system, err := r.system()
	if err != nil {
		return pointer.Generation{}, err
	}
	now := r.host.now()
	g, seen, refusal := r.host.Pointer.Accept(history, pointer.Follower{
		System:          r.config.System,
		Seen:            seen,
		Running:         system.Running,
		Skew:            time.Duration(r.config.MaxSkew),
		TrustOnFirstUse: r.request.TrustOnFirstUse,
	}, now)
	if err := r.remember(history, seen); err != nil {
		return pointer.Generation{}, err
	}
	if refusal != nil {
		var why *pointer.Refusal
		if !errors.As(refusal, &why) {
			return pointer.Generation{}, refusal
		}
		return pointer.Generation{}, ends(Refused, idOf(why.Generation), "%v", refusal)
	}
	return g, nil
}

// requestHistory asks for the history, unless it is the one that was read last: then
// that one's newest generation, verified again, is all of it.
func (r *run) requestHistory(ctx context.Context) (*pointer.History, error) {
	offered := r.state.Offered
	if offered == nil || offered.Source != r.host.Pointer.String() {
		return r.host.Pointer.Read(ctx)
	}
	history, err := r.host.Pointer.ReadIfChanged(ctx, offered.ETag)
	if !errors.Is(err, blob.ErrNotModified) {
		return history, err
	}
	history, err = r.host.Pointer.Recall(offered.Generation)
	if err != nil { // its keys have changed since
		return r.host.Pointer.Read(ctx)
	}
	return history, nil
}

// seen is what is remembered of the pointer: by the state or, if that is lost,
// by the names of the roots.
func (r *run) seen() (pointer.Seen, error) {
	seen, ok := r.state.Seen[r.state.Pointer]
	if ok {
		return seen, nil
	}
	roots, err := r.config.roots(r.state.Pointer)
	if err != nil {
		return seen, fmt.Errorf("looking for the highest generation: %w", err)
	}
	for number, path := range roots {
		if number > seen.Number {
			seen.Number, seen.Path = number, path
		}
	}
	return seen, nil
}

// remember writes down what was read, if that is new.
func (r *run) remember(history *pointer.History, seen pointer.Seen) error {
	newest, exists := history.Newest()
	if !exists || seen.Number != newest.Number || seen.Path != newest.Path {
		return nil // it was not believed
	}
	before, offered := r.state.Seen[r.state.Pointer], r.state.Offered
	now := Offered{Generation: newest, FirstSeen: r.host.now().Unix(), Source: r.host.Pointer.String(), ETag: history.ETag()}
	if offered != nil && idOf(offered.Generation) == idOf(newest) {
		now.FirstSeen = offered.FirstSeen
	}
	if now.ETag == "" && offered != nil && offered.Source == now.Source { // recalled
		now.ETag = offered.ETag
	}
	if offered != nil && before.Number == seen.Number && before.Path == seen.Path && before.Created == seen.Created &&
		offered.ETag == now.ETag && offered.Source == now.Source && offered.Generation.Expires == newest.Expires {
		return nil
	}
	if r.state.Seen == nil {
		r.state.Seen = map[pointer.Name]pointer.Seen{}
	}
	if err := r.config.addRoot(rootName(r.state.Pointer, newest.Number), newest.Path); err != nil {
		return err
	}
	r.changed("root")
	r.state.Seen[r.state.Pointer], r.state.Offered = seen, &now
	return r.save("seen")
}
