// Package build has the candidates of a publication that need Nix: what is
// evaluated and built, and what is in the local store; one host, or many of a
// flake together.
//
// Nix takes what it can from the site's caches, which are served to it over
// loopback, so that it gets no credential of theirs, and builds the rest. What the
// cache has already, whole, isn't built.
//
// This is the only room of the engine that has Nix run.
package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
	"github.com/nixos-closure/nixos-closure-resource/internal/substituter"
)

// Nix says how the Nix of this machine is used.
type Nix struct {
	Settings  nixcmd.Settings // without the site's caches
	BuildLogs bool            // keep the logs of what is built in the cache
}

// When says when to build what was evaluated.
type When string

const (
	Missing When = "missing" // unless the cache has it, whole
	Never   When = "never"   // the cache must have it
	Always  When = "always"  // also if the cache has it
)

// ParseWhen parses the name of a When.
func ParseWhen(s string) (When, error) {
	if when := When(s); when == Missing || when == Never || when == Always {
		return when, nil
	}
	return "", fmt.Errorf("want %s, %s or %s, got %q", Missing, Never, Always, s)
}

// Toplevel is the attribute of a flake that holds the system of a host, whose name
// is one component, whatever is in it.
func Toplevel(host string) string {
	return `nixosConfigurations."` + host + `".config.system.build.toplevel`
}

// A builder is the Nix of this machine at work for a site.
type builder struct {
	site    *site.Site
	console *console.Console
	nix     Nix
	when    When
	local   *nixcmd.Store
	server  *substituter.Server
}

// open opens the local store, and serves its Nix the site's caches until the
// builder is closed. Unless it is zero, the closure of the expected path will be
// asked for.
func open(ctx context.Context, s *site.Site, c *console.Console, n Nix, when When, expected nix.StorePath) (*builder, error) {
	b := &builder{site: s, console: c, nix: n, when: when}
	caches := s.Cache.Substituters()
	if when != Always { // which doesn't take from the cache what is about to be built for it
		caches = slices.Concat([]*cache.Cache{s.Cache}, caches)
	}
	var err error
	if b.server, err = substituter.Serve(ctx, c.Caution, caches...); err != nil {
		return nil, err
	}
	settings := n.Settings
	settings.Substituters, settings.PublicKeys = b.server.URLs(), b.server.PublicKeys()
	log := renamer{c, cacheNames(settings.Substituters, caches)}
	b.local, err = nixcmd.Open(ctx, nixcmd.Options{Log: log, Warn: c.Caution, Settings: settings, Expect: expected})
	if err != nil {
		return nil, errors.Join(err, b.server.Close())
	}
	return b, nil
}

// Close takes back from Nix what it was offered.
func (b *builder) Close() error { return errors.Join(b.local.Close(), b.server.Close()) }

// cacheNames replaces the URLs by which Nix is served by the caches' own.
func cacheNames(urls []string, caches []*cache.Cache) *strings.Replacer {
	var pairs []string
	for i, url := range urls {
		served, _, _ := strings.Cut(url, "?") // as Nix calls it
		pairs = append(pairs, served, caches[i].String())
	}
	return strings.NewReplacer(pairs...)
}

// A renamer passes on what is written to it with other names. (A name that is
// written in two pieces stays as it is.)
type renamer struct {
	w     io.Writer
	names *strings.Replacer
}

func (r renamer) Write(p []byte) (int, error) {
	if _, err := r.names.WriteString(r.w, string(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// inLocalStore returns the closure of a path that is valid in the local store.
func (b *builder) inLocalStore(ctx context.Context, root nix.StorePath) (*publish.Closure, error) {
	infos, err := b.local.Closure(ctx, root)
	return &publish.Closure{Root: root, Infos: infos, Source: b.local, Close: b.Close}, err
}

// systemOf returns the system that a derivation builds for.
func systemOf(d nixcmd.Derivation) string {
	if publish.IsSystem(d.System) {
		return d.System
	}
	return publish.UnknownSystem
}

// readSystem returns the system that a closure runs on: what its root says or,
// failing that, what the derivation that made it says.
func readSystem(ctx context.Context, source cache.Source, root nix.StorePath, infos []nix.PathInfo, d nixcmd.Derivation) (string, error) {
	system, err := publish.ReadSystem(ctx, source, root, infos)
	return cmp.Or(system, systemOf(d)), err
}

// A StorePath is a candidate: a path in the local store or, if it isn't there, in
// the cache.
type StorePath struct {
	Path nix.StorePath
	Nix  Nix
}

// Prepare implements publish.Candidate.
func (c StorePath) Prepare(ctx context.Context, p *publish.Preparation) (*publish.Closure, error) {
	closure, localErr := c.local(ctx, p)
	if localErr == nil {
		return closure, nil
	}
	found, err := p.Site.Cache.Closure(ctx, c.Path)
	if err != nil {
		return nil, errors.Join(localErr, err)
	}
	return publish.InCache(p.Site.Cache, found), nil
}

func (c StorePath) local(ctx context.Context, p *publish.Preparation) (*publish.Closure, error) {
	b, err := open(ctx, p.Site, p.Console, c.Nix, Missing, c.Path)
	if err != nil {
		return nil, err
	}
	closure, err := b.inLocalStore(ctx, c.Path)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return closure, nil
}

// An Expression is a candidate: what Nix evaluates and, unless the cache has it,
// builds.
type Expression struct {
	Installable nixcmd.Installable
	Host        string // whose system the attribute is; "" if another attribute was named
	When        When
	Nix         Nix
}

// Prepare implements publish.Candidate.
func (c Expression) Prepare(ctx context.Context, p *publish.Preparation) (_ *publish.Closure, err error) {
	if err := p.Ready(); err != nil {
		return nil, err
	}
	b, err := open(ctx, p.Site, p.Console, c.Nix, c.When, nix.StorePath{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	p.Console.Say("evaluating %s", c.Installable)
	var derivation nixcmd.Derivation
	revision, err := b.revisionDuring(ctx, c.Installable, func() (err error) {
		derivation, err = b.local.Evaluate(ctx, c.Installable)
		return err
	})
	if err != nil {
		return nil, c.adviseHost(ctx, b.local, err)
	}
	if err := p.CheckMove(derivation.OutPath); err != nil {
		return nil, err
	}
	closure, err := b.findOrBuild(ctx, derivation)
	if err != nil {
		return nil, err
	}
	closure.Revision, closure.Slow, closure.Close = revision, true, b.Close
	return closure, nil
}

// revisionDuring evaluates i, and returns the git commit that its sources were at;
// "" if there is none, it can't be told, or it was another one before than after.
func (b *builder) revisionDuring(ctx context.Context, i nixcmd.Installable, evaluate func() error) (string, error) {
	before := b.local.Revision(ctx, i)
	if err := evaluate(); err != nil || before == "" {
		return "", err
	}
	if after := b.local.Revision(ctx, i); after != before {
		b.console.Warn("the sources were at %s, and when they had been evaluated at %s: no revision is recorded", before, cmp.Or(after, "none"))
		return "", nil
	}
	return before, nil
}

// adviseHost adds to the error of evaluating a host of a flake which hosts there
// are, if it isn't one of them.
func (c Expression) adviseHost(ctx context.Context, local *nixcmd.Store, err error) error {
	if !errors.Is(err, nixcmd.ErrNoAttribute) || c.Host == "" {
		return err
	}
	i := c.Installable
	i.Attribute = "nixosConfigurations"
	hosts, listErr := local.Attributes(ctx, i)
	if listErr != nil || slices.Contains(hosts, c.Host) {
		return err
	}
	return hint.With(err, "its nixosConfigurations are: %s", hint.Few(hosts))
}

// findOrBuild returns what a derivation makes: from the cache, if that has it
// whole, or else built.
func (b *builder) findOrBuild(ctx context.Context, d nixcmd.Derivation) (*publish.Closure, error) {
	found, err := b.find(ctx, d)
	if err != nil {
		return nil, err
	}
	if found != nil {
		b.console.Say("nothing is built: the cache has %s, whole", found.Root)
		closure := publish.InCache(b.site.Cache, found)
		closure.System = systemOf(d)
		return closure, nil
	}
	if b.when == Never {
		return nil, hint.With(fmt.Errorf("%s is not in %s, whole, and may not be built", d.OutPath, b.site.Cache),
			"build and push it first, or leave out %s", hint.Term("build: never"))
	}
	if err := b.site.Cache.CheckWritable(ctx, d.Path); err != nil {
		return nil, err
	}
	paths, err := b.realise(ctx, d)
	if err != nil {
		return nil, err
	}
	closure, err := b.inLocalStore(ctx, paths[0])
	if err != nil {
		return nil, err
	}
	closure.Built = true
	closure.System, err = readSystem(ctx, closure.Source, closure.Root, closure.Infos, d)
	return closure, err
}

// find returns the closure of what a derivation makes, as far as that can be
// known, if the cache has it whole and that is reason not to build it; else nil.
func (b *builder) find(ctx context.Context, d nixcmd.Derivation) (*cache.Closure, error) {
	if b.when == Always {
		return nil, nil
	}
	if d.OutPath.IsZero() {
		err := fmt.Errorf("the path of %s is known only when it is built: it is content-addressed, or what it is built from is", d.Name)
		if b.when == Never {
			return nil, hint.With(err, "leave out %s", hint.Term("build: never"))
		}
		b.console.Say("%v", err)
		return nil, nil
	}
	closures, err := b.site.Cache.Closures(ctx, []nix.StorePath{d.OutPath})
	return closures[d.OutPath], err
}
