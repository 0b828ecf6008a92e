package resource

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// publishFleet publishes the closures of several hosts, each to its pointer, that
// of the source last. Those that fail don't keep the others from moving, nor the
// source's own; but the put has failed then, and putting again finishes it.
func (p *publisher) publishFleet(ctx context.Context, upstreams []*cache.Cache) (any, error) {
	f, err := p.newFleet(ctx, upstreams)
	if err != nil {
		return nil, err
	}
	f.moves = true
	attributes, err := f.attributes(ctx)
	if err != nil {
		return nil, err
	}
	own := string(p.source.Pointer)
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if name != own {
			f.add(name, attributes[name], name)
		}
	}
	f.add(own, attributes[own], own)

	pushed, err := f.publish(ctx)
	if err != nil {
		return nil, err
	}
	if pushed != nil {
		f.move(ctx)
		p.release(ctx, pushed)
	}
	if err := f.left(ctx); err != nil {
		return nil, hint.With(err, "the others are done; put again once these are mended")
	}
	newest := f.hosts[len(f.hosts)-1].outcome.Generation
	metadata := describe(p.source.Pointer, newest)
	var unchanged []string
	for _, h := range f.hosts[:len(f.hosts)-1] {
		if !h.outcome.Moved {
			unchanged = append(unchanged, h.name)
			continue
		}
		metadata.add(h.name, strings.TrimSuffix(fmt.Sprintf("generation %d: %s", h.outcome.Generation.Number, h.changes), ": "))
	}
	metadata.add("unchanged", strings.Join(unchanged, ", "))
	metadata.add("sent", sent(pushed))
	paths, size := f.union()
	metadata.add("already there", amount(paths-pushed.SentPaths, size-pushed.SentNarSize))
	tellUpstreams(p.Console, &metadata, p.here, pushed.Closure)
	return Answer{versionOf(newest), metadata}, nil
}

// union is how many paths the closures have together, and of what size.
func (f *fleet) union() (paths int, size int64) {
	seen := map[nix.StorePath]bool{}
	for _, h := range f.going() {
		for i := range h.closure.Paths {
			if ni := &h.closure.Paths[i]; !seen[ni.Path] {
				seen[ni.Path] = true
				size += ni.NarSize
			}
		}
	}
	return len(seen), size
}

// attributes says which attribute each pointer is to lead to, that of the source
// among them.
func (f *fleet) attributes(ctx context.Context) (map[string]string, error) {
	own := string(f.source.Pointer)
	attributes := map[string]string{own: f.installable.Attribute}
	if !f.params.All {
		for name, attribute := range f.params.Pointers {
			attributes[string(name)] = attribute
		}
		return attributes, nil
	}
	names, err := f.choose(ctx, []string{"*"})
	if err != nil {
		return nil, err
	}
	if !slices.Contains(names, own) {
		return nil, hint.With(fmt.Errorf("the flake has no host %s, which is the source's pointer, and the last to move", own),
			"the source's pointer must be one of %s", hint.Few(names))
	}
	for _, name := range names {
		attributes[name] = toplevel(name)
	}
	return attributes, nil
}
