package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A fleet are hosts that are evaluated each by itself, a few at a time, so that
// memory doesn't grow with their number; and then built together and pushed
// together, so that what they share is paid for once. One whose closure the cache
// has already costs its evaluation and two small requests.
//
// A host that fails is left behind with the reason, and the others go on. What
// says nothing about a host, such as a cache that can't be reached, is an error
// of the fleet.
type fleet struct {
	*publisher
	upstreams   []*cache.Cache       // of whose paths nothing is sent
	installable nixstore.Installable // what all hosts are attributes of
	moves       bool                 // whether the pointers are to lead to what is built
	hosts       []*host
}

// A host is one of a fleet, and how far it has come.
type host struct {
	name      string
	attribute string
	trail     *trail // of its pointer

	derivation nixstore.Derivation
	root       nix.StorePath  // of its closure; zero if only building tells
	found      *cache.Closure // that closure, if the cache had it before anything was built
	closure    *cache.Closure // the same, once it was pushed
	outcome    pointer.Outcome
	changes    string // in short, if the pointer has moved
	err        error  // why it is left behind
}

// newFleet opens a fleet without hosts.
func (p *publisher) newFleet(ctx context.Context, upstreams []*cache.Cache) (*fleet, error) {
	f := &fleet{publisher: p, upstreams: upstreams}
	var err error
	if f.installable, err = p.installable(); err != nil {
		return nil, err
	}
	if _, err := p.openLocal(ctx, nix.StorePath{}); err != nil {
		return nil, err
	}
	return f, p.readRevision(ctx, p.local, f.installable)
}

// add adds a host: what it is called, which attribute it is, and which pointer
// leads to it.
func (f *fleet) add(name, attribute, leads string) {
	h := &host{name: name, attribute: attribute}
	var parsed pointer.Name
	if parsed, h.err = pointer.ParseName(leads); h.err == nil {
		h.trail = f.source.trails(f.store, f.here, []pointer.Name{parsed})[0]
	}
	f.hosts = append(f.hosts, h)
}

// maxLooks is how many pointers are read or moved side by side.
const maxLooks = 16

// each does a step for those hosts that aren't left behind, limit at a time. An
// error leaves the host behind.
func each(ctx context.Context, hosts []*host, limit int, step func(context.Context, *host) error) {
	var group errgroup.Group
	group.SetLimit(limit)
	for _, h := range hosts {
		if h.err != nil {
			continue
		}
		group.Go(func() error {
			if h.err = ctx.Err(); h.err == nil {
				h.err = step(ctx, h)
			}
			return nil
		})
	}
	group.Wait()
}

// going are the hosts that aren't left behind.
func (f *fleet) going() []*host {
	return slices.DeleteFunc(slices.Clone(f.hosts), func(h *host) bool { return h.err != nil })
}

// look reads the histories of the hosts' pointers. If they aren't to move, they
// are no more than a hint at what the cache has.
func (f *fleet) look(ctx context.Context) {
	each(ctx, f.hosts, maxLooks, func(ctx context.Context, h *host) error {
		if f.moves {
			return h.trail.lookToMove(ctx)
		}
		if h.trail.look(ctx) != nil {
			h.trail.history = new(pointer.History)
		}
		return nil
	})
}

// publish makes the closures of the hosts whole in the cache: it evaluates all,
// builds what the cache lacks, and pushes that. Pushed is nil if all hosts are
// left behind.
func (f *fleet) publish(ctx context.Context) (*cache.Pushed, error) {
	f.look(ctx)
	f.evaluate(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := f.find(ctx); err != nil {
		return nil, err
	}
	infos, err := f.build(ctx)
	if err != nil {
		return nil, err
	}
	return f.push(ctx, infos)
}

// evaluate evaluates the hosts, the first one before the others: they find in the
// store what it has fetched, where each would fetch it for itself.
func (f *fleet) evaluate(ctx context.Context) {
	workers := max(1, min(cmp.Or(f.params.Workers, nixstore.Workers()), len(f.hosts)))
	f.Console.Say("evaluating %s, %d at a time", count(len(f.hosts), "host"), workers)
	var evaluated atomic.Int32
	step := func(ctx context.Context, h *host) (err error) {
		installable := f.installable
		installable.Attribute = h.attribute
		h.derivation, err = f.local.Labelled(h.name).Evaluate(ctx, installable)
		h.root = h.derivation.OutPath
		f.Console.overwrite(fmt.Sprintf("evaluated %d/%d hosts", evaluated.Add(1), len(f.hosts)))
		return err
	}
	each(ctx, f.hosts[:1], 1, step)
	each(ctx, f.hosts[1:], workers, step)
	f.Console.overwrite("")
}

// find finds out which of the closures the cache has: those that the pointers
// lead to, for they spare looking for their paths one by one, and those that the
// hosts were evaluated to.
func (f *fleet) find(ctx context.Context) error {
	wanted := map[nix.StorePath]bool{}
	for _, h := range f.going() {
		if newest, ok := h.trail.history.Newest(); ok {
			wanted[newest.Path] = true
		}
		if !h.root.IsZero() {
			wanted[h.root] = true
		}
	}
	closures, err := f.here.Closures(ctx, nix.SortPaths(slices.Collect(maps.Keys(wanted))))
	if err != nil {
		return err
	}
	for _, h := range f.going() {
		if newest, ok := h.trail.history.Newest(); ok {
			h.trail.known = closures[newest.Path]
		}
		if f.params.Build != buildAlways {
			h.found = closures[h.root]
		}
	}
	return nil
}

// build builds together what the cache lacks, and returns what the local store
// knows of the closures of that. Whether a path is taken from a substituter or
// really built is for Nix to decide.
func (f *fleet) build(ctx context.Context) ([]nix.PathInfo, error) {
	byDerivation := map[nixstore.Derivation][]*host{}
	var derivations []nixstore.Derivation
	found := 0
	for _, h := range f.going() {
		switch {
		case h.found != nil:
			found++
		case f.params.Build == buildNever:
			h.err = hint.With(fmt.Errorf("%s is not in %s, whole, and may not be built", cmp.Or(h.root, h.derivation.Path), f.here),
				"build it first, from the same sources, or leave out build: never")
		default:
			if byDerivation[h.derivation] == nil {
				derivations = append(derivations, h.derivation)
			}
			byDerivation[h.derivation] = append(byDerivation[h.derivation], h)
		}
	}
	f.Console.Say("%s in the cache, %d to be built", count(found, "closure"), len(derivations))
	if len(derivations) == 0 {
		return nil, nil
	}
	paths, err := f.realise(ctx, derivations...)
	var failure *nixstore.BuildError
	if err != nil && !errors.As(err, &failure) {
		return nil, err
	}
	var built []nix.StorePath
	for i, d := range derivations {
		var left error
		if paths[i].IsZero() {
			if left, err = f.local.Blame(ctx, failure, d); err != nil {
				return nil, err
			}
		} else {
			built = append(built, paths[i])
		}
		for _, h := range byDerivation[d] {
			h.root, h.err = paths[i], left
		}
	}
	if len(built) == 0 {
		return nil, nil
	}
	f.look(ctx) // building may have taken hours
	return f.local.Closure(ctx, built...)
}

// push pushes the union of the closures, of which infos tell as far as they are
// in the local store.
func (f *fleet) push(ctx context.Context, infos []nix.PathInfo) (*cache.Pushed, error) {
	var roots []nix.StorePath
	var found cache.Closure // the union of them
	req := cache.PushRequest{Upstreams: f.upstreams}
	union := map[nix.StorePath]nix.PathInfo{}
	for _, h := range f.going() {
		if h.found != nil {
			for _, ni := range h.found.Paths {
				if _, ok := union[ni.Path]; !ok {
					union[ni.Path] = ni.PathInfo
					found.Paths = append(found.Paths, ni)
				}
			}
		}
		if h.trail.known != nil {
			req.Previous = append(req.Previous, h.trail.known)
		}
		roots = append(roots, h.root)
	}
	if len(roots) == 0 {
		return nil, nil
	}
	built := map[nix.StorePath]bool{}
	for _, info := range infos {
		union[info.Path], built[info.Path] = info, true
	}
	req.Source = mixedSource{f.local, f.here.Source(&found), built}
	roots = nix.SortPaths(roots)
	req.Root, req.Also, req.Infos = roots[0], roots[1:], slices.Collect(maps.Values(union))
	pushed, err := push(ctx, f.Console, f.here, req)
	if err != nil {
		return nil, err
	}
	closures := map[nix.StorePath]*cache.Closure{}
	for _, closure := range append([]*cache.Closure{pushed.Closure}, pushed.Also...) {
		closures[closure.Root] = closure
	}
	for _, h := range f.going() {
		h.closure = closures[h.root]
	}
	return pushed, nil
}

// A mixedSource has some paths in the local store and the others in a cache: our
// own or, if they aren't in there, a substituter.
type mixedSource struct {
	local, cached cache.Source
	isLocal       map[nix.StorePath]bool
}

// DumpNAR implements cache.Source.
func (s mixedSource) DumpNAR(ctx context.Context, path nix.StorePath, w io.Writer) error {
	if s.isLocal[path] {
		return s.local.DumpNAR(ctx, path, w)
	}
	return s.cached.DumpNAR(ctx, path, w)
}

// move moves the hosts' pointers to their closures, that of the last host after
// all others, and says so.
func (f *fleet) move(ctx context.Context) {
	var stay atomic.Int32
	step := func(ctx context.Context, h *host) error {
		pub, err := f.publication(ctx, h)
		if err != nil {
			return err
		}
		outcome, changed, err := h.trail.move(ctx, f.Console, f.proposal(h.trail, pub, h.closure), h.closure)
		if err != nil {
			return err
		}
		h.outcome = outcome
		if outcome.Moved || outcome.Renewed {
			sayOutcome(f.Console, h.trail.name, outcome)
		} else {
			stay.Add(1)
		}
		if changed != nil {
			h.changes = changed.Summary()
		}
		return nil
	}
	last := len(f.hosts) - 1
	each(ctx, f.hosts[:last], maxLooks, step)
	each(ctx, f.hosts[last:], 1, step)
	if n := int(stay.Load()); n > 0 {
		f.Console.Say("unchanged: %s", count(n, "pointer"))
	}
}

// publication is what a host's generation is made of.
func (f *fleet) publication(ctx context.Context, h *host) (pub *publication, err error) {
	pub = &publication{root: h.root, infos: []nix.PathInfo{h.closure.RootInfo().PathInfo}, source: f.local, details: f.details(), close: nothing}
	newest, ok := h.trail.history.Newest()
	switch {
	case ok && newest.Path == h.root:
		pub.system = newest.System
	case h.found != nil:
		pub.system = systemOf(h.derivation)
	default:
		pub.system, err = pub.readSystem(ctx)
	}
	return pub, err
}

// left tells of the hosts that are left behind why, those together that have the
// same reason, and returns an error that names them all.
func (f *fleet) left(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err // of whoever is left behind now, it says nothing
	}
	var names []string
	var reasons []error
	sharing := map[string][]string{} // names, by the text of their reason
	for _, h := range f.hosts {
		if h.err == nil {
			continue
		}
		names = append(names, h.name)
		text := h.err.Error()
		if sharing[text] == nil {
			reasons = append(reasons, h.err)
		}
		sharing[text] = append(sharing[text], h.name)
	}
	for _, reason := range reasons {
		f.Console.Fail(fmt.Errorf("%s: %w", hint.Few(sharing[reason.Error()]), reason))
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("failed: %d of %s: %s", len(names), count(len(f.hosts), "host"), strings.Join(names, ", "))
}
