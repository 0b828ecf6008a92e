// Package publish makes a closure the newest generation of pointers: it has a
// [Candidate] found, built or imported, pushes it to the cache as far as it isn't
// there, and moves the pointers to it.
//
// [Run] is the whole story for one closure and one or more pointers, [Rollback]
// goes back to an earlier generation. Closures of many hosts are published by
// package build, which shares what this package has for it.
//
// A run may be repeated, and killed at any instant: a pointer moves only after its
// whole closure is in the cache, acceptable to those who follow it, and running
// the same thing again finishes what was cut short. If the path is the newest
// generation's already, nothing moves.
//
// The package starts no process. Candidates that need Nix are package build's.
package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// A Request says what to publish, and to which pointers.
type Request struct {
	Site    *site.Site
	Console *console.Console

	Candidate Candidate
	Pointer   pointer.Name   // moves last
	To        []pointer.Name // move before it

	Message      string
	Provenance   pointer.Provenance
	IfGeneration *uint64 // of Pointer: its newest generation's number, 0 for none; nil: whatever it is
	AllowOlder   bool    // let a promotion follow one of a later generation
}

// A Candidate is where a closure comes from: an import, a promotion, a path in the
// cache, or what package build finds or builds.
type Candidate interface {
	// Prepare returns the closure to publish. The caller closes it.
	Prepare(ctx context.Context, p *Preparation) (*Closure, error)
}

// A Preparation is what a candidate has at hand. The pointers are being read while
// it is prepared.
type Preparation struct {
	*Request
	read    func() error // waits until all pointers were read
	targets []*Target
}

// Ready waits until all pointers were read, and fails if one can't be. A candidate
// that takes long calls it first: who can't move a pointer shouldn't evaluate.
func (p *Preparation) Ready() error { return p.read() }

// CheckMove fails if the pointers will not move to root because of the request's
// IfGeneration. A candidate that takes long calls it as soon as it knows its root.
// It waits like Ready.
func (p *Preparation) CheckMove(root nix.StorePath) error {
	if err := p.read(); err != nil {
		return err
	}
	return p.targets[len(p.targets)-1].CheckCondition(p.IfGeneration, root)
}

// A Closure is one that is about to be published.
type Closure struct {
	Root     nix.StorePath
	Infos    []nix.PathInfo // of all its paths
	Source   cache.Source   // of the NARs
	System   string         // such as x86_64-linux; empty: what the root says, or UnknownSystem
	Found    *cache.Closure // the same, if it was found whole in the site's cache; else nil
	Slow     bool           // evaluating or hashing it may have taken minutes: "it stays" is said after another look
	Built    bool           // just now, which may have taken hours: the pointers are read again
	Origin   *pointer.Origin
	Started  int64  // of a promotion: when the work on it began; see pointer.Generation.Started
	Revision string // of the sources that it was built from; "" if that isn't known
	Message  string // if the request has none
	Close    func() error
}

// A Move is what became of a pointer.
type Move struct {
	Pointer pointer.Name
	pointer.Outcome
}

// A Result says what was published.
type Result struct {
	Moves  []Move // in the order in which the pointers moved; the last is the request's Pointer
	Pushed *cache.Pushed
}

// Newest is the generation that the request's pointer has now.
func (r *Result) Newest() pointer.Generation { return r.Moves[len(r.Moves)-1].Generation }

// Run publishes a candidate. If a substituter turns out not to give what it has
// announced, the candidate is prepared again without it.
func Run(ctx context.Context, r Request) (*Result, error) {
	return cache.Repeat(ctx, func() (*Result, error) { return run(ctx, r) })
}

func run(ctx context.Context, r Request) (_ *Result, err error) {
	if slices.Contains(r.To, r.Pointer) {
		return nil, hint.Usage(hint.With(fmt.Errorf("%s is the pointer that moves last, and is to move before that, too", r.Pointer), "name it once"))
	}
	p := newPublisher(&r)
	if err := p.last().Writable(); err != nil {
		return nil, err
	}

	// What is to be published: build it, or find it. The pointers are read beside.
	closure, err := p.prepare(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closure.Close()) }()
	if closure.System == "" {
		system, err := ReadSystem(ctx, closure.Source, closure.Root, closure.Infos)
		if err != nil {
			return nil, err
		}
		closure.System = cmp.Or(system, UnknownSystem)
	}
	if err := p.preview(ctx, closure); err != nil {
		return nil, err
	}

	// Push it, as far as it isn't there.
	pushed, err := Push(ctx, r.Console, r.Site, cache.PushRequest{
		Root: closure.Root, Infos: closure.Infos, Source: closure.Source, Previous: p.previous(ctx, closure),
	}, closure.found()...)
	if err != nil {
		return nil, err
	}
	defer Release(ctx, r.Console, pushed)
	if err := closure.accepts(pushed); err != nil {
		return nil, err
	}

	// Move the pointers, and say so.
	moves, err := p.move(ctx, closure, pushed)
	if err != nil {
		return nil, err
	}
	return &Result{moves, pushed}, nil
}

// A publisher is a request at work.
type publisher struct {
	*Request
	started int64
	targets []*Target // the pointers to move, in that order
}

func newPublisher(r *Request) *publisher {
	p := &publisher{Request: r, started: time.Now().Unix()}
	for _, name := range append(slices.Clone(r.To), r.Pointer) {
		p.targets = append(p.targets, NewTarget(r.Site, name))
	}
	return p
}

// last is the target that moves last.
func (p *publisher) last() *Target { return p.targets[len(p.targets)-1] }

// prepare reads the targets and has the candidate prepared, side by side.
func (p *publisher) prepare(ctx context.Context) (*Closure, error) {
	read := make(chan struct{})
	var readErr error
	go func() {
		defer close(read)
		readErr = p.read(ctx)
	}()
	wait := func() error {
		<-read
		return readErr
	}
	closure, err := p.Candidate.Prepare(ctx, &Preparation{p.Request, wait, p.targets})
	if failed := wait(); failed != nil {
		if err == nil {
			failed = errors.Join(failed, closure.Close())
		}
		return nil, failed
	}
	if err == nil && closure.Built {
		if err = p.read(ctx); err != nil {
			err = errors.Join(err, closure.Close())
		}
	}
	return closure, err
}

// maxPointers is how many pointers are read or moved side by side.
const maxPointers = 16

// read reads the histories of all targets, side by side.
func (p *publisher) read(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(maxPointers)
	for _, t := range p.targets {
		group.Go(func() error { return t.Read(ctx) })
	}
	return group.Wait()
}

// preview returns the error that a move would end with, as far as that can be
// told before anything is pushed.
func (p *publisher) preview(ctx context.Context, closure *Closure) error {
	if closure.Origin == nil {
		return p.last().CheckCondition(p.IfGeneration, closure.Root)
	}
	for _, t := range p.targets {
		if err := t.Preview(ctx, p.proposal(t, closure, closure.rootNarHash(), pointer.Sizes{})); err != nil {
			return err
		}
	}
	return nil
}

// previous returns the closures that the cache is known to have: that of the
// candidate, if it was found there, and that of the pointer's newest generation,
// if that can be had.
func (p *publisher) previous(ctx context.Context, closure *Closure) []*cache.Closure {
	if closure.Found != nil {
		p.last().Known(closure.Found)
	}
	if previous := p.last().Previous(ctx); previous != nil {
		return []*cache.Closure{previous}
	}
	return nil
}

// move makes a closure that was pushed the newest generation of all targets, one
// after the other, and says so. If one fails, the error says which have moved.
func (p *publisher) move(ctx context.Context, closure *Closure, pushed *cache.Pushed) ([]Move, error) {
	var moves []Move
	sizes := pointer.Sizes{Paths: len(pushed.Closure.Paths), NarSize: pushed.Closure.NarSize()}
	for i, t := range p.targets {
		outcome, changed, err := t.Move(ctx, p.Console, p.proposal(t, closure, pushed.Closure.RootInfo().NarHash, sizes), pushed.Closure)
		if err != nil && len(p.targets) > 1 {
			err = hint.With(fmt.Errorf("%w (of this wave, done: %s; failed: %s; still to come: %s)",
				err, names(p.targets[:i]), t.Name, names(p.targets[i+1:])),
				"%s: those that are done stay, and the others follow", hint.Term("put again"))
		}
		if err != nil {
			return nil, err
		}
		SayOutcome(p.Console, t.Name, outcome)
		if DropsMessage(p.Message, outcome) {
			p.Console.Say(MessageDropped)
		}
		if changed != nil && i == len(p.targets)-1 { // in a wave, they are much the same
			p.Console.Text(changed.Text(p.Console.Colour()))
		}
		moves = append(moves, Move{t.Name, outcome})
	}
	return moves, nil
}

// proposal is what a target is to have as its newest generation. The condition is
// that of the request's pointer alone.
func (p *publisher) proposal(t *Target, closure *Closure, narHash nix.Hash, sizes pointer.Sizes) pointer.Proposal {
	message := p.Message
	if message == "" {
		message = closure.Message
	}
	proposal := pointer.Proposal{
		Path:    closure.Root,
		System:  closure.System,
		NarHash: narHash,
		Details: pointer.Details{
			Provenance: p.Provenance,
			Revision:   closure.Revision,
			Origin:     closure.Origin,
			Message:    message,
			Started:    cmp.Or(closure.Started, p.started),
			Sizes:      sizes,
		},
		AllowOlder:  p.AllowOlder,
		Seen:        t.History,
		SeenLongAgo: closure.Slow,
	}
	if t.Name == p.Pointer {
		proposal.IfGeneration = p.IfGeneration
	}
	return proposal
}

// found is the closure as the site's cache was found to have it, if it was.
func (c *Closure) found() []*cache.Closure {
	if c.Found == nil {
		return nil
	}
	return []*cache.Closure{c.Found}
}

// rootNarHash is the hash of the root's NAR, as its source has it.
func (c *Closure) rootNarHash() nix.Hash {
	for i := range c.Infos {
		if c.Infos[i].Path == c.Root {
			return c.Infos[i].NarHash
		}
	}
	return nix.Hash{}
}

// accepts returns an error if what is promoted is not, byte for byte, what was
// tested: the cache had other bytes under the same path.
func (c *Closure) accepts(pushed *cache.Pushed) error {
	if c.Origin == nil || len(pushed.Unreproducible) == 0 {
		return nil
	}
	return hint.With(fmt.Errorf("what would be promoted is not what was tested: the cache has other bytes for %s", pushed.Unreproducible[0]),
		"it is not reproducible, and was pushed here from another build: test what is in this cache, and promote that")
}

// names lists pointers for a person.
func names(targets []*Target) string {
	if len(targets) == 0 {
		return "none"
	}
	names := make([]string, len(targets))
	for i, t := range targets {
		names[i] = string(t.Name)
	}
	return strings.Join(names, ", ")
}

// UnknownSystem is the system of a closure that nobody knows it of.
const UnknownSystem = "unknown"

// ReadSystem returns what a closure runs on, if its root says so, as a NixOS system
// does in a path of symlinks and small files; else "".
func ReadSystem(ctx context.Context, source cache.Source, root nix.StorePath, infos []nix.PathInfo) (string, error) {
	const largest = 16 << 20 // bytes, a hundred times a NixOS system's
	for _, info := range infos {
		if info.Path != root || info.NarSize > largest {
			continue
		}
		data, err := cache.ReadFile(ctx, source, root, "system", 100)
		if err != nil {
			return "", err
		}
		if s := strings.TrimSpace(string(data)); IsSystem(s) {
			return s, nil
		}
	}
	return "", nil
}

// IsSystem says whether s has the form of a system, such as x86_64-linux.
func IsSystem(s string) bool { return systemName.MatchString(s) }

var systemName = regexp.MustCompile(`^[A-Za-z0-9_]{1,30}-[A-Za-z0-9_]{1,30}$`)
