package resource

import (
	"context"
	"fmt"
	"slices"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// An addition is what a get fetches besides its version: the closure that
// another pointer of the same cache leads to at that time. It is verified as
// the version's own is.
type addition struct {
	pointer pointer.Name
	closure *cache.Closure
}

// decodeAlso takes the pointers of additions, each once.
func decodeAlso(o *object, f format) []pointer.Name {
	var names []pointer.Name
	for _, text := range o.texts("also") {
		name, err := pointer.ParseName(text)
		if err != nil {
			o.failWith("also", err)
		} else if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) > 0 && f != formatRootfs {
		o.failWith("also", hint.With(fmt.Errorf("the format is %s", f), "only with format: rootfs can there be several closures"))
	}
	return names
}

// additions finds out what the pointers lead to.
func (s *Source) additions(ctx context.Context, console *Console, store blob.Store, from *cache.Cache, names []pointer.Name) ([]addition, error) {
	var also []addition
	for _, name := range names {
		closure, err := s.addition(ctx, console, store, from, name)
		if err != nil {
			return nil, fmt.Errorf("params.also: %w", err)
		}
		also = append(also, addition{name, closure})
	}
	return also, nil
}

func (s *Source) addition(ctx context.Context, console *Console, store blob.Store, from *cache.Cache, name pointer.Name) (*cache.Closure, error) {
	other := *s
	other.Pointer = name
	trail := other.trail(store, from)
	if err := trail.look(ctx); err != nil {
		return nil, err
	}
	warnOf(console, name, trail.history)
	newest, ok := trail.history.Newest()
	if !ok {
		return nil, hint.With(fmt.Errorf("%s has no generations", trail.pointer), "is the name right? The first put makes a pointer")
	}
	closure, err := trail.closure(ctx, newest)
	if err != nil {
		return nil, err
	}
	if err := isStill(newest, closure, from); err != nil {
		return nil, err
	}
	console.Say("adding generation %d of %s: %s (%s)", newest.Number, name, closure.Root, amount(len(closure.Paths), closure.NarSize()))
	return closure, nil
}

// together is a closure that has those paths of the additions, too, that it
// lacks; they come first.
func together(closure *cache.Closure, also []addition) *cache.Closure {
	has := make(map[nix.StorePath]bool, len(closure.Paths))
	for i := range closure.Paths {
		has[closure.Paths[i].Path] = true
	}
	var more []cache.NarInfo
	for _, a := range also {
		for _, ni := range a.closure.Paths {
			if !has[ni.Path] {
				has[ni.Path] = true
				more = append(more, ni)
			}
		}
	}
	return &cache.Closure{Root: closure.Root, Paths: append(more, closure.Paths...)}
}
