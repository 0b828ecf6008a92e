package resource

import (
	"context"

	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// Check answers which versions there are from a given one on, in one request to
// the store, whatever it holds.
func Check(ctx context.Context, step Step) (any, error) {
	r, err := readRequest(step.Stdin)
	if err != nil {
		return nil, err
	}
	config, _ := r.source()
	given := decodeVersion(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	s, err := site.Open(ctx, config)
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
	if !ok { // before the first put, or the cache or the pointer isn't the one that is meant
		step.Console.Say("%s has no generation yet in %s", config.Pointer, s.Store)
	}
	if ok && given != nil && given.Generation > newest.Number {
		step.Console.Warn("generation %d was asked for, but the newest of %s is %d: was it deleted, or put back from a backup?",
			given.Generation, config.Pointer, newest.Number)
	}
	return versionsSince(given, history), nil
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
