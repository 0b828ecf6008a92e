package resource

import (
	"context"
	"errors"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
)

// A BuiltHost is one that Build was asked for.
type BuiltHost struct {
	Host  string        `json:"host"`
	Path  nix.StorePath `json:"path,omitzero"`   // what it is to run; the cache has its closure
	Error string        `json:"error,omitempty"` // why there is no path
}

// Build builds hosts of a flake together and pushes the union of their closures,
// for tasks and for people. Its params are those of a put that say how to
// evaluate and build a flake, and further:
//
//	hosts          names of hosts, or patterns for some
//	eval_workers   how many are evaluated side by side
//	suffix         of the pointers to move, behind the hosts' names; may be empty; if there is none, no pointer moves
//
// If some hosts fail, the others are in the answer all the same, and the error
// says which have failed.
//
// A closure that no pointer leads to yet is kept from being garbage by the lease
// of its push. So without a suffix, Build leaves leases behind; they end by their
// age.
func Build(ctx context.Context, step Step) ([]BuiltHost, error) {
	if err := nixstore.ProtectProcess(); err != nil {
		return nil, err
	}
	r, err := readRequest(step.Stdin)
	if err != nil {
		return nil, err
	}
	source := decodeSourceOf(r, false)
	o := r.object("params")
	params := OutParams{recipe: decodeRecipe(o), hosts: hosts{Workers: decodeWorkers(o)}}
	patterns, suffix, moves := o.texts("hosts"), o.text("suffix"), o.has("suffix")
	if params.Flake.host != "" {
		o.failWith("flake", hint.With(errors.New("one host is named by what follows #"), "name hosts by themselves"))
	}
	o.require("flake", "the flake that the hosts are of")
	o.require("hosts", `names of hosts of the flake, or patterns: ["web-*"]; all: ["*"]`)
	o.finish()
	if err := r.err(); err != nil {
		return nil, err
	}
	store, err := source.open(ctx)
	if err != nil {
		return nil, err
	}
	to, upstreams, err := source.cache(ctx, store)
	if err != nil {
		return nil, err
	}
	inputs, err := openInputs(step.Dir)
	if err != nil {
		return nil, err
	}
	defer inputs.Close()
	p := publisher{Step: step, source: &source, store: store, here: to, inputs: inputs, params: params}
	defer p.close()
	f, err := p.newFleet(ctx, upstreams)
	if err != nil {
		return nil, err
	}
	f.moves = moves
	names, err := f.choose(ctx, patterns)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		f.add(name, toplevel(name), name+suffix)
	}
	pushed, err := f.publish(ctx)
	if err != nil {
		return nil, err
	}
	if pushed != nil && f.moves {
		f.move(ctx)
		p.release(ctx, pushed)
	}
	return f.built(), f.left(ctx)
}

// built tells of all hosts.
func (f *fleet) built() []BuiltHost {
	var built []BuiltHost
	for _, h := range f.hosts {
		b := BuiltHost{Host: h.name, Path: h.root}
		if h.err != nil {
			b.Path, b.Error = nix.StorePath{}, h.err.Error()
		}
		built = append(built, b)
	}
	return built
}
