package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// A HostsRequest says which hosts to build together, and which pointers are to
// lead to them.
type HostsRequest struct {
	Site    *site.Site
	Console *console.Console
	Nix     Nix

	Installable nixcmd.Installable       // what the hosts are attributes of
	Hosts       []Host                   // named by their attributes
	Patterns    []string                 // names, or patterns for names, of hosts in the flake's nixosConfigurations
	PointerOf   func(host string) string // the pointer of a host
	Last        pointer.Name             // of the pointers, if one is to move after all others; "" if none is

	Move         bool // the pointers
	When         When
	Workers      int // that evaluate, side by side; 0: as many as the machine can do
	Message      string
	Provenance   pointer.Provenance
	IfGeneration *uint64 // of Last: its newest generation's number, 0 for none; nil: whatever it is
}

// A Host is something that follows a pointer, and the attribute that makes it.
type Host struct {
	Name      string
	Attribute string
}

// A HostResult says how far a host has come.
type HostResult struct {
	Name    string
	Path    nix.StorePath   // of its closure, which is in the cache; zero if that has failed
	Outcome pointer.Outcome // of its pointer, if that was to move
	Changes string          // in short, if it has moved
	Err     error           // why the host was left behind
}

// A HostsResult says what became of hosts.
type HostsResult struct {
	Hosts    []HostResult     // the one that moves last is the last
	Pushed   *cache.Pushed    // nil if all failed before that
	Closures []*cache.Closure // of those hosts that didn't fail
}

// Union is how many paths the closures have together, and of what size, in bytes.
func (r *HostsResult) Union() (paths int, size int64) {
	seen := map[nix.StorePath]bool{}
	for _, closure := range r.Closures {
		for i := range closure.Paths {
			if ni := &closure.Paths[i]; !seen[ni.Path] {
				seen[ni.Path] = true
				size += ni.NarSize
			}
		}
	}
	return len(seen), size
}

// hosts are evaluated each by itself, a few at a time, so that memory doesn't grow
// with their number; and then built together and pushed together, so that what
// they share is paid for once. One whose closure the cache has already costs its
// evaluation and two small requests.
//
// A host that fails is left behind with the reason, and the others go on. What
// says nothing about a host, such as a cache that can't be reached, is an error of
// all.
type hosts struct {
	*HostsRequest
	*builder
	started  int64
	revision string
	all      []*host
}

// A host is one of several, and how far it has come.
type host struct {
	HostResult
	attribute string
	target    *publish.Target // its pointer

	derivation nixcmd.Derivation
	found      *cache.Closure // if the cache had it before anything was built
	closure    *cache.Closure // the same, once it was pushed
}

// Hosts publishes the closures of several hosts, each to its pointer. Those that
// fail don't keep the others from moving. If there are some, the error names them,
// and the result is there all the same. If a substituter turns out not to give what
// it has announced, all begins again without it.
func Hosts(ctx context.Context, r HostsRequest) (*HostsResult, error) {
	return cache.Repeat(ctx, func() (*HostsResult, error) { return runHosts(ctx, r) })
}

func runHosts(ctx context.Context, r HostsRequest) (_ *HostsResult, err error) {
	started := time.Now().Unix()
	b, err := open(ctx, r.Site, r.Console, r.Nix, r.When, nix.StorePath{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	h := &hosts{HostsRequest: &r, builder: b, started: started}
	if err := h.choose(ctx); err != nil {
		return nil, err
	}
	pushed, err := h.publish(ctx)
	if err != nil {
		return nil, err
	}
	if pushed != nil && r.Move {
		h.move(ctx)
		publish.Release(ctx, r.Console, pushed)
	}
	result := &HostsResult{Pushed: pushed}
	for _, one := range h.all {
		if one.Err != nil {
			one.Path = nix.StorePath{}
		} else {
			result.Closures = append(result.Closures, one.closure)
		}
		result.Hosts = append(result.Hosts, one.HostResult)
	}
	return result, reportFailures(ctx, r.Console, h.all)
}

// choose finds out which hosts there are.
func (h *hosts) choose(ctx context.Context) error {
	chosen := slices.Clone(h.Hosts)
	if h.Patterns != nil {
		names, err := h.match(ctx)
		if err != nil {
			return err
		}
		for _, name := range names {
			chosen = append(chosen, Host{name, Toplevel(name)})
		}
	}
	for _, c := range chosen {
		one := &host{HostResult: HostResult{Name: c.Name}, attribute: c.Attribute}
		var name pointer.Name
		if name, one.Err = pointer.ParseName(h.PointerOf(c.Name)); one.Err == nil {
			one.target = publish.NewTarget(h.Site, name)
		}
		h.all = append(h.all, one)
	}
	if h.Last == "" {
		return nil
	}
	i := slices.IndexFunc(h.all, func(one *host) bool { return one.target != nil && one.target.Name == h.Last })
	if i < 0 {
		return hint.Usage(hint.With(fmt.Errorf("the flake has no host %s, whose pointer is the last to move", h.Last),
			"that pointer must be one of %s", hint.Few(h.names())))
	}
	last := h.all[i]
	h.all = append(slices.Delete(h.all, i, i+1), last)
	return nil
}

func (h *hosts) names() []string {
	names := make([]string, len(h.all))
	for i, one := range h.all {
		names[i] = one.Name
	}
	return names
}

// match returns the names of those hosts of the flake, sorted, that patterns
// match. No host is evaluated for that.
func (h *hosts) match(ctx context.Context) ([]string, error) {
	i := h.Installable
	i.Attribute = "nixosConfigurations"
	names, err := h.local.Attributes(ctx, i)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, hint.With(errors.New("the flake has no hosts"), "want some in nixosConfigurations")
	}
	var chosen []string
	for _, pattern := range h.Patterns {
		var matching []string
		for _, name := range names {
			match, err := path.Match(pattern, name)
			if err != nil {
				return nil, hint.Usage(hint.With(fmt.Errorf("the pattern %q: %w", pattern, err), "* stands for any letters, ? for one, [ab] for one of those"))
			}
			if match {
				matching = append(matching, name)
			}
		}
		if matching == nil {
			err := fmt.Errorf("the flake has no host %s", pattern)
			if near := hint.Nearest(pattern, names); near != "" {
				return nil, hint.Usage(hint.With(err, "did you mean %s?", near))
			}
			return nil, hint.Usage(hint.With(err, "its hosts: %s", hint.Few(names)))
		}
		chosen = append(chosen, matching...)
	}
	slices.Sort(chosen)
	return slices.Compact(chosen), nil
}

// maxPointers is how many pointers are read or moved side by side.
const maxPointers = 16

// each does a step for those hosts that aren't left behind, limit at a time. An
// error leaves the host behind.
func each(ctx context.Context, all []*host, limit int, step func(context.Context, *host) error) {
	var group errgroup.Group
	group.SetLimit(limit)
	for _, h := range all {
		if h.Err != nil {
			continue
		}
		group.Go(func() error {
			if h.Err = ctx.Err(); h.Err == nil {
				h.Err = step(ctx, h)
			}
			return nil
		})
	}
	group.Wait()
}

// remaining are the hosts that aren't left behind.
func (h *hosts) remaining() []*host {
	return slices.DeleteFunc(slices.Clone(h.all), func(one *host) bool { return one.Err != nil })
}

// read reads the histories of the hosts' pointers. If they aren't to move, they
// are no more than a hint at what the cache has.
func (h *hosts) read(ctx context.Context) {
	each(ctx, h.all, maxPointers, func(ctx context.Context, one *host) error {
		if h.Move {
			return one.target.Read(ctx)
		}
		var err error
		if one.target.History, err = one.target.Pointer.Read(ctx); err != nil {
			one.target.History = new(pointer.History)
		}
		return nil
	})
}

// publish makes the closures of the hosts whole in the cache: it evaluates all,
// builds what the cache lacks, and pushes that. Pushed is nil if all hosts are
// left behind.
func (h *hosts) publish(ctx context.Context) (*cache.Pushed, error) {
	h.read(ctx)
	var err error
	h.revision, err = h.revisionDuring(ctx, h.Installable, func() error {
		h.evaluate(ctx)
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	h.checkCondition()
	if err := h.find(ctx); err != nil {
		return nil, err
	}
	infos, err := h.build(ctx)
	if err != nil {
		return nil, err
	}
	return h.push(ctx, infos)
}

// evaluate evaluates the hosts, the first one before the others: they find in the
// store what it has fetched, where each would fetch it for itself.
func (h *hosts) evaluate(ctx context.Context) {
	workers := max(1, min(cmp.Or(h.Workers, nixcmd.Workers()), len(h.all)))
	c := h.Console
	c.Say("evaluating %s, %d at a time", console.Count(len(h.all), "host"), workers)
	var evaluated atomic.Int32
	step := func(ctx context.Context, one *host) (err error) {
		installable := h.Installable
		installable.Attribute = one.attribute
		one.derivation, err = h.local.Labelled(one.Name).Evaluate(ctx, installable)
		one.Path = one.derivation.OutPath
		c.Overwrite(fmt.Sprintf("evaluated %d/%d hosts", evaluated.Add(1), len(h.all)))
		return err
	}
	each(ctx, h.all[:1], 1, step)
	each(ctx, h.all[1:], workers, step)
	c.Overwrite("")
}

// checkCondition leaves the host behind whose pointer must not move.
func (h *hosts) checkCondition() {
	for _, one := range h.remaining() {
		if one.target.Name == h.Last {
			one.Err = one.target.CheckCondition(h.IfGeneration, one.Path)
		}
	}
}

// find finds out which of the closures the cache has: those that the pointers
// lead to, for they spare looking for their paths one by one, and those that the
// hosts were evaluated to.
func (h *hosts) find(ctx context.Context) error {
	wanted := map[nix.StorePath]bool{}
	for _, one := range h.remaining() {
		if newest, ok := one.target.History.Newest(); ok {
			wanted[newest.Path] = true
		}
		if !one.Path.IsZero() {
			wanted[one.Path] = true
		}
	}
	closures, err := h.Site.Cache.Closures(ctx, nix.SortPaths(slices.Collect(maps.Keys(wanted))))
	if err != nil {
		return err
	}
	for _, one := range h.remaining() {
		if newest, ok := one.target.History.Newest(); ok {
			one.target.Known(closures[newest.Path])
		}
		if h.When != Always {
			one.found = closures[one.Path]
		}
	}
	return nil
}

// build builds together what the cache lacks, and returns what the local store
// knows of the closures of that. Whether a path is taken from a substituter or
// really built is for Nix to decide.
func (h *hosts) build(ctx context.Context) ([]nix.PathInfo, error) {
	byDerivation := map[nixcmd.Derivation][]*host{}
	var derivations []nixcmd.Derivation
	found := 0
	for _, one := range h.remaining() {
		switch {
		case one.found != nil:
			found++
		case h.When == Never:
			one.Err = hint.With(fmt.Errorf("%s is not in %s, whole, and may not be built", cmp.Or(one.Path, one.derivation.Path), h.Site.Cache),
				"build it first, from the same sources, or leave out %s", hint.Term("build: never"))
		default:
			if byDerivation[one.derivation] == nil {
				derivations = append(derivations, one.derivation)
			}
			byDerivation[one.derivation] = append(byDerivation[one.derivation], one)
		}
	}
	h.Console.Say("%s in the cache, %d to be built", console.Count(found, "closure"), len(derivations))
	if len(derivations) == 0 {
		return nil, nil
	}
	if err := h.Site.Cache.CheckWritable(ctx, derivations[0].Path); err != nil {
		return nil, err
	}
	paths, err := h.realise(ctx, derivations...)
	var failure *nixcmd.BuildError
	if err != nil && !errors.As(err, &failure) {
		return nil, err
	}
	var built []nix.StorePath
	for i, d := range derivations {
		var reason error
		if paths[i].IsZero() {
			if reason, err = h.local.Blame(ctx, failure, d); err != nil {
				return nil, err
			}
		} else {
			built = append(built, paths[i])
		}
		for _, one := range byDerivation[d] {
			one.Path, one.Err = paths[i], reason
		}
	}
	if len(built) == 0 {
		return nil, nil
	}
	h.read(ctx) // building may have taken hours
	return h.local.Closure(ctx, built...)
}

// push pushes the union of the closures, of which infos tell as far as they are
// in the local store.
func (h *hosts) push(ctx context.Context, infos []nix.PathInfo) (*cache.Pushed, error) {
	var roots []nix.StorePath
	var whole []*cache.Closure // those that the cache has
	var found cache.Closure    // the union of them
	var req cache.PushRequest
	union := map[nix.StorePath]nix.PathInfo{}
	for _, one := range h.remaining() {
		if one.found != nil {
			whole = append(whole, one.found)
			for _, ni := range one.found.Paths {
				if _, ok := union[ni.Path]; !ok {
					union[ni.Path] = ni.PathInfo
					found.Paths = append(found.Paths, ni)
				}
			}
		}
		if previous := one.target.KnownClosure(); previous != nil {
			req.Previous = append(req.Previous, previous)
		}
		roots = append(roots, one.Path)
	}
	if len(roots) == 0 {
		return nil, nil
	}
	built := map[nix.StorePath]bool{}
	for _, info := range infos {
		union[info.Path], built[info.Path] = info, true
	}
	req.Source = mixedSource{h.local, h.Site.Cache.Source(&found), built}
	roots = nix.SortPaths(roots)
	req.Root, req.Also, req.Infos = roots[0], roots[1:], slices.Collect(maps.Values(union))
	pushed, err := publish.Push(ctx, h.Console, h.Site, req, whole...)
	if err != nil {
		return nil, err
	}
	closures := map[nix.StorePath]*cache.Closure{}
	for _, closure := range append([]*cache.Closure{pushed.Closure}, pushed.Also...) {
		closures[closure.Root] = closure
	}
	for _, one := range h.remaining() {
		one.closure = closures[one.Path]
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
func (h *hosts) move(ctx context.Context) {
	var stay atomic.Int32
	var dropped atomic.Bool
	step := func(ctx context.Context, one *host) error {
		system, err := h.systemOf(ctx, one)
		if err != nil {
			return err
		}
		proposal := pointer.Proposal{
			Path:    one.Path,
			System:  system,
			NarHash: one.closure.RootInfo().NarHash,
			Details: pointer.Details{
				Provenance: h.Provenance,
				Revision:   h.revision,
				Message:    h.Message,
				Started:    h.started,
				Sizes:      pointer.Sizes{Paths: len(one.closure.Paths), NarSize: one.closure.NarSize()},
			},
			SeenLongAgo: true,
		}
		if one.target.Name == h.Last {
			proposal.IfGeneration = h.IfGeneration
		}
		outcome, changed, err := one.target.Move(ctx, h.Console, proposal, one.closure)
		if err != nil {
			return err
		}
		one.Outcome = outcome
		if outcome.Moved || outcome.Renewed {
			publish.SayOutcome(h.Console, one.target.Name, outcome)
		} else {
			stay.Add(1)
		}
		if publish.DropsMessage(h.Message, outcome) {
			dropped.Store(true)
		}
		if changed != nil {
			one.Changes = changed.Summary()
		}
		return nil
	}
	last := len(h.all) - 1
	each(ctx, h.all[:last], maxPointers, step)
	each(ctx, h.all[last:], 1, step)
	if n := int(stay.Load()); n > 0 {
		h.Console.Say("unchanged: %s", console.Count(n, "pointer"))
	}
	if dropped.Load() {
		h.Console.Say(publish.MessageDropped)
	}
}

// systemOf is what a host's closure runs on.
func (h *hosts) systemOf(ctx context.Context, one *host) (string, error) {
	newest, ok := one.target.History.Newest()
	switch {
	case ok && newest.Path == one.Path:
		return newest.System, nil
	case one.found != nil:
		return systemOf(one.derivation), nil
	}
	return readSystem(ctx, h.local, one.Path, []nix.PathInfo{one.closure.RootInfo().PathInfo}, one.derivation)
}

// reportFailures tells of the hosts that are left behind why, those together that have
// the same reason, and returns an error that names them all.
func reportFailures(ctx context.Context, c *console.Console, all []*host) error {
	if err := ctx.Err(); err != nil {
		return err // of whoever is left behind now, it says nothing
	}
	var names []string
	var reasons []error
	sharing := map[string][]string{} // names, by the text of their reason
	for _, one := range all {
		if one.Err == nil {
			continue
		}
		names = append(names, one.Name)
		text := one.Err.Error()
		if sharing[text] == nil {
			reasons = append(reasons, one.Err)
		}
		sharing[text] = append(sharing[text], one.Name)
	}
	for _, reason := range reasons {
		c.Fail(fmt.Errorf("%s: %w", hint.Few(sharing[reason.Error()]), reason))
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("failed: %d of %s: %s", len(names), console.Count(len(all), "host"), strings.Join(names, ", "))
}
