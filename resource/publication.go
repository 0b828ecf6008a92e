package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/handover"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/substituter"
)

// A publication is a closure that a put makes a generation of, and what the
// generation says of it.
type publication struct {
	root    nix.StorePath
	infos   []nix.PathInfo  // of its closure
	source  cache.Source    // of the closure's NARs
	system  string          // as readSystem says it
	built   bool            // just now
	details pointer.Details // all but provenance and sizes
	close   func() error
}

// A publisher finds what the params of a put name, and moves pointers to it.
type publisher struct {
	Step
	source       *Source
	store        blob.Store   // of the source's cache
	here         *cache.Cache // that is in it
	inputs       *inputs
	params       OutParams
	ifGeneration *uint64
	targets      []*trail // the pointers to move, the source's last

	local  *nixstore.Store     // once it was needed
	server *substituter.Server // of caches to its Nix

	revision string // of a flake that isn't in the inputs
}

// lookAndPrepare reads the histories of all targets and prepares what is to be
// published; side by side, unless one has to come first: a promotion asks whether
// the targets may move to it, and who is about to build for hours should be sure
// that the pointers can be read. The caller must close what is returned.
func (p *publisher) lookAndPrepare(ctx context.Context) (*publication, error) {
	if p.params.Promote != "" || p.params.recipe.is() {
		if err := p.look(ctx); err != nil {
			return nil, err
		}
		return p.prepare(ctx)
	}
	looked := make(chan error, 1)
	go func() {
		err := p.look(ctx)
		if err == nil {
			p.targets[len(p.targets)-1].anticipate(ctx)
		}
		looked <- err
	}()
	pub, err := p.prepare(ctx)
	if lookErr := <-looked; lookErr != nil {
		if err == nil {
			lookErr = errors.Join(lookErr, pub.close())
		}
		return nil, lookErr
	}
	return pub, err
}

// prepare returns what is to be published, having built it if need be. The
// caller must close it.
func (p *publisher) prepare(ctx context.Context) (*publication, error) {
	if p.params.Promote != "" {
		return p.promote(ctx)
	}
	root, err := p.root()
	if err != nil {
		return nil, err
	}
	var pub *publication
	switch {
	case p.params.Closure != "":
		pub, err = p.takeOver(ctx, root)
	case p.params.recipe.is():
		pub, err = p.build(ctx)
	default:
		pub, err = p.find(ctx, root)
	}
	if err != nil {
		return nil, err
	}
	if pub.system == "" {
		if pub.system, err = pub.readSystem(ctx); err != nil {
			return nil, errors.Join(err, pub.close())
		}
	}
	pub.details = p.details()
	return pub, nil
}

// details are what the params say of what is published.
func (p *publisher) details() pointer.Details {
	details := pointer.Details{Message: p.params.Message, Revision: p.revision}
	if p.params.Flake.url == "" {
		details.Revision = revisionOf(p.inputs.dir, cmp.Or(p.params.checkout(), p.params.Closure, filepath.Dir(p.params.PathFrom)))
	}
	return details
}

// root is the store path that the params name, if they do.
func (p *publisher) root() (nix.StorePath, error) {
	if p.params.PathFrom == "" {
		return p.params.Path, nil
	}
	root, err := p.inputs.storePath(p.params.PathFrom)
	if err != nil {
		err = fmt.Errorf("params.store_path: %w", err)
	}
	return root, err
}

// installable is what the params say that Nix is to evaluate.
func (p *publisher) installable() (nixstore.Installable, error) {
	return p.params.installable(p.inputs, p.source.Pointer)
}

// build evaluates the recipe, and builds it unless the cache has what it makes.
func (p *publisher) build(ctx context.Context) (*publication, error) {
	installable, err := p.installable()
	if err != nil {
		return nil, err
	}
	local, err := p.openLocal(ctx, nix.StorePath{})
	if err != nil {
		return nil, err
	}
	p.Console.Say("evaluating %s", installable)
	derivation, err := local.Evaluate(ctx, installable)
	if err != nil {
		return nil, p.adviseHost(ctx, local, installable, err)
	}
	if err := p.readRevision(ctx, local, installable); err != nil {
		return nil, err
	}
	return p.makeOrFind(ctx, local, derivation)
}

// adviseHost adds to the error of evaluating a host of a flake which hosts there
// are, if it isn't one of them.
func (p *publisher) adviseHost(ctx context.Context, local *nixstore.Store, i nixstore.Installable, err error) error {
	host := cmp.Or(p.params.Flake.host, string(p.source.Pointer))
	if !errors.Is(err, nixstore.ErrNoAttribute) || i.Attribute != toplevel(host) {
		return err
	}
	i.Attribute = "nixosConfigurations"
	hosts, listErr := local.Attributes(ctx, i)
	if listErr != nil || slices.Contains(hosts, host) {
		return err
	}
	return hint.With(err, "its nixosConfigurations are: %s", hint.Few(hosts))
}

// readRevision finds out which commit a flake is at that isn't in the inputs.
func (p *publisher) readRevision(ctx context.Context, local *nixstore.Store, i nixstore.Installable) (err error) {
	if p.params.Flake.url != "" {
		p.revision, err = local.Revision(ctx, i)
	}
	return err
}

// makeOrFind returns what a derivation makes: from the cache, if that has it
// whole, or else built.
func (p *publisher) makeOrFind(ctx context.Context, local *nixstore.Store, d nixstore.Derivation) (*publication, error) {
	closure, err := p.made(ctx, d)
	if err != nil {
		return nil, err
	}
	switch {
	case closure != nil:
		p.Console.Say("nothing is built: the cache has %s, whole", closure.Root)
		pub := inCache(p.here, closure)
		pub.system = systemOf(d)
		return pub, nil
	case p.params.Build == buildNever:
		return nil, hint.With(fmt.Errorf("%s is not in %s, whole, and this put may not build it", d.OutPath, p.here),
			"put it where it is built first, or leave out build: never")
	}
	paths, err := p.realise(ctx, d)
	if err != nil {
		return nil, err
	}
	pub, err := inLocalStore(ctx, local, paths[0])
	if err == nil {
		pub.built = true
	}
	return pub, err
}

// made returns the closure of what a derivation makes, as far as that can be
// known, if the cache has it whole and that is reason not to build it; else nil.
func (p *publisher) made(ctx context.Context, d nixstore.Derivation) (*cache.Closure, error) {
	if p.params.Build == buildAlways {
		return nil, nil
	}
	if d.OutPath.IsZero() {
		err := fmt.Errorf("the path of %s is known only when it is built: it is content-addressed, or what it is built from is", d.Name)
		if p.params.Build == buildNever {
			return nil, hint.With(err, "leave out build: never")
		}
		p.Console.Say("%v", err)
		return nil, nil
	}
	closures, err := p.here.Closures(ctx, []nix.StorePath{d.OutPath})
	if closures[d.OutPath] != nil {
		p.targets[len(p.targets)-1].known = closures[d.OutPath] // most often, it is where the pointer leads
	}
	return closures[d.OutPath], err
}

// find finds a path in the local store or, if it isn't there, in the cache,
// whole.
func (p *publisher) find(ctx context.Context, root nix.StorePath) (*publication, error) {
	p.here.Anticipate(ctx, root)
	local, err := p.openLocal(ctx, root)
	if err == nil {
		var pub *publication
		if pub, err = inLocalStore(ctx, local, root); err == nil {
			p.here.Announce(ctx, root)
			return pub, nil
		}
	}
	closure, cacheErr := p.here.Closure(ctx, root)
	if cacheErr != nil {
		return nil, mistakes{err, cacheErr}
	}
	return inCache(p.here, closure), nil
}

// takeOver opens what an earlier step has handed over.
func (p *publisher) takeOver(ctx context.Context, root nix.StorePath) (*publication, error) {
	name, err := p.inputs.path(p.params.Closure)
	if err != nil {
		return nil, fmt.Errorf("params.closure: %w", err)
	}
	closure, err := handover.Open(ctx, name, root)
	if err != nil {
		return nil, fmt.Errorf("params.closure: %s: %w", p.params.Closure, err)
	}
	return handedOver(closure), nil
}

func inLocalStore(ctx context.Context, local *nixstore.Store, root nix.StorePath) (*publication, error) {
	infos, err := local.Closure(ctx, root)
	return &publication{root: root, infos: infos, source: local, close: nothing}, err
}

func inCache(c *cache.Cache, closure *cache.Closure) *publication {
	return &publication{root: closure.Root, infos: closure.Infos(), source: c.Source(closure), close: nothing}
}

func handedOver(c *handover.Closure) *publication {
	return &publication{root: c.Root, infos: c.Infos, source: c.Source, close: c.Close}
}

func nothing() error { return nil }

// systemOf is readSystem for a closure that isn't at hand, but whose derivation
// is.
func systemOf(d nixstore.Derivation) string {
	if systemName.MatchString(d.System) {
		return d.System
	}
	return ownSystem()
}

// readSystem is what a closure runs on: a NixOS system says so, in a path of
// symlinks and small files; anything else was built here, for a machine like
// this one.
func (p *publication) readSystem(ctx context.Context) (string, error) {
	const largest = 16 << 20 // bytes, a hundred times a NixOS system's
	for _, info := range p.infos {
		if info.Path != p.root || info.NarSize > largest {
			continue
		}
		data, err := cache.ReadFile(ctx, p.source, p.root, "system", 100)
		if err != nil {
			return "", err
		}
		if s := strings.TrimSpace(string(data)); systemName.MatchString(s) {
			return s, nil
		}
	}
	return ownSystem(), nil
}

// ownSystem is this machine's.
func ownSystem() string {
	architectures := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}
	return cmp.Or(architectures[runtime.GOARCH], runtime.GOARCH) + "-" + runtime.GOOS
}

var systemName = regexp.MustCompile(`^[A-Za-z0-9_]{1,30}-[A-Za-z0-9_]{1,30}$`)
