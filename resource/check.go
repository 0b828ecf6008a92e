package resource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// checkPatience is how long a check may take. The next one comes in a minute, and
// Concourse's workers have a place for few at a time.
var checkPatience = time.Minute

// Check answers which versions there are from a given one on, in one request to
// the store, whatever it holds. It gives up after a minute.
func Check(ctx context.Context, step Step) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	versions, err := check(ctx, step)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = hint.With(fmt.Errorf("the cache has not answered within %s: %w", checkPatience, err), "the next check tries again")
	}
	return versions, err
}

func check(ctx context.Context, step Step) (any, error) {
	r, err := readRequest(step.Stdin)
	if err != nil {
		return nil, err
	}
	config, _ := r.source()
	given := decodeVersion(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	s, err := site.Open(ctx, config, step.Console.Caution)
	if err != nil {
		return nil, err
	}
	pointer := s.Pointer(config.Pointer)
	history, err := pointer.Read(ctx)
	if err != nil {
		return nil, err
	}
	pointer.Warn(step.Console, history)
	newest, ok := history.Newest()
	if !ok {
		return []Version{}, explainEmpty(ctx, step, s, pointer, given)
	}
	if given != nil && given.Generation > newest.Number {
		step.Console.Warn("generation %d was asked for, but the newest of %s is %d: was it deleted, or put back from a backup?",
			given.Generation, config.Pointer, newest.Number)
	}
	return versionsSince(given, history), nil
}

// explainEmpty says why there is no version. Before the first put, that is right;
// but the pointer may have been deleted, or the cache not be the one that is meant.
func explainEmpty(ctx context.Context, step Step, s *site.Site, p *site.Pointer, given *Version) error {
	if given != nil {
		return hint.With(fmt.Errorf("%s is gone: generation %d was there", p.Pointer, given.Generation),
			"somebody has deleted pointers/%s.json, or the source names another cache now: put the object back from a version or a backup", p.Name)
	}
	if _, err := p.Look(ctx); err != nil {
		return err
	}
	exists, err := s.Cache.Exists(ctx)
	if err != nil {
		return err
	}
	where := s.Store.Location()
	none := fmt.Sprintf("it has neither a nix-cache-info nor the pointer %s", p.Name)
	switch {
	case exists:
		step.Console.Say("%s has no generation yet in %s", p.Name, where)
	case s.IsPlace(ctx):
		step.Console.Caution(hint.With(fmt.Errorf("%s is no Nix cache yet: %s", where, none),
			"the first put makes it one; if there was a put, is the cache's URL right?"))
	default:
		return hint.With(fmt.Errorf("%s is no Nix cache: %s", where, none),
			"is the cache's URL right? Before the first put, a bucket or an empty directory has to be there")
	}
	return nil
}

// versionsSince lists what Concourse should know of, oldest first: the given
// version, while it is still in the history, and all later ones. All that the
// history has, if the given one has left it. The newest alone, if none is given
// or the given one is not of this history; for Concourse would take whatever is
// listed together with a version that is new to it for newer than all others.
func versionsSince(given *Version, history *pointer.History) []Version {
	generations := history.Generations // newest first
	versions := []Version{}
	if len(generations) == 0 {
		return versions
	}
	first := 0 // index of the oldest to list
	oldest := len(generations) - 1
	switch {
	case given == nil:
	case given.Generation < generations[oldest].Number:
		first = oldest
	default:
		for i, g := range generations {
			if g.Number == given.Generation && given.names(g.Path) {
				first = i
			}
		}
	}
	for i := first; i >= 0; i-- {
		versions = append(versions, versionOf(generations[i]))
	}
	return versions
}
