package resource

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// Out publishes a closure: it pushes it to the cache and moves the pointer; or
// those of several hosts. It can be repeated, and interrupted, at any time.
func Out(ctx context.Context, step Step) (any, error) {
	if err := nixcmd.ProtectProcess(); err != nil {
		return nil, err
	}
	r, err := readRequest(step.Stdin)
	if err != nil {
		return nil, err
	}
	config, nix := r.source()
	params := decodePut(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	s, err := site.Open(ctx, config, step.Console.Caution)
	if err != nil {
		return nil, err
	}
	if err := s.Pointer(config.Pointer).Writable(); err != nil {
		return nil, err
	}
	inputs, err := openInputs(step.Dir)
	if err != nil {
		return nil, err
	}
	defer inputs.Close()
	p := put{step: step, site: s, nix: nix, params: params, inputs: inputs, provenance: site.Provenance(step.Getenv, config.Provenance)}
	if params.manyHosts() {
		return p.hosts(ctx)
	}
	return p.one(ctx)
}

// A put is one at work.
type put struct {
	step       Step
	site       *site.Site
	nix        build.Nix
	params     putParams
	inputs     *inputs
	provenance pointer.Provenance
}

// one publishes one closure.
func (p *put) one(ctx context.Context) (any, error) {
	if slices.Contains(p.params.To, p.site.Config.Pointer) {
		return nil, hint.With(fmt.Errorf("params.to: %s is the source's own pointer", p.site.Config.Pointer), "leave it out: it moves last, without being named")
	}
	ifGeneration, err := p.inputs.ifGeneration(p.params.IfGeneration)
	if err != nil {
		return nil, err
	}
	candidate, err := p.candidate()
	if err != nil {
		return nil, err
	}
	result, err := publish.Run(ctx, publish.Request{
		Site:         p.site,
		Console:      p.step.Console,
		Candidate:    candidate,
		Pointer:      p.site.Config.Pointer,
		To:           p.params.To,
		Message:      p.params.Message,
		Provenance:   p.provenance,
		IfGeneration: ifGeneration,
		AllowOlder:   p.params.AllowOlder,
	})
	if err != nil {
		return nil, err
	}
	newest, pushed := result.Newest(), result.Pushed
	metadata := site.Describe(p.site.Config.Pointer, newest)
	for _, move := range result.Moves[:len(result.Moves)-1] {
		metadata.Add("to "+string(move.Pointer), fmt.Sprintf("generation %d", move.Generation.Number))
	}
	metadata.Add("sent", publish.Sent(pushed))
	metadata.Add("already there", console.Amount(len(pushed.Closure.Paths)-pushed.SentPaths, pushed.Closure.NarSize()-pushed.SentNarSize))
	metadata.Add("substituters", publish.SubstitutersFor(p.step.Console, p.site, pushed.Closure))
	return Answer{versionOf(newest), metadata}, nil
}

// hosts publishes the closures of several hosts, each to its pointer, that of the
// source last. If some fail, the put has failed, and putting again finishes it.
func (p *put) hosts(ctx context.Context) (any, error) {
	own := p.site.Config.Pointer
	installable, _, err := p.params.installable(p.inputs, own)
	if err != nil {
		return nil, err
	}
	r := build.HostsRequest{
		Site: p.site, Console: p.step.Console, Nix: p.nix,
		Installable: installable,
		PointerOf:   func(host string) string { return host },
		Last:        own,
		Move:        true,
		When:        p.params.Build,
		Workers:     p.params.Workers,
		Message:     p.params.Message,
		Provenance:  p.provenance,
	}
	r.Revision, r.AskRevision = p.revision()
	if p.params.All {
		r.Patterns = []string{"*"}
	} else {
		r.Hosts = p.params.Hosts
		if !slices.ContainsFunc(r.Hosts, func(h build.Host) bool { return h.Name == string(own) }) {
			r.Hosts = append(r.Hosts, build.Host{Name: string(own), Attribute: installable.Attribute})
		}
	}
	result, err := build.Hosts(ctx, r)
	if err != nil {
		if result != nil {
			err = hint.With(err, "the others are done; put again once these are mended")
		}
		return nil, err
	}
	newest := result.Hosts[len(result.Hosts)-1].Outcome.Generation
	metadata := site.Describe(own, newest)
	var unchanged []string
	for _, h := range result.Hosts[:len(result.Hosts)-1] {
		if !h.Outcome.Moved {
			unchanged = append(unchanged, h.Name)
			continue
		}
		metadata.Add(h.Name, strings.TrimSuffix(fmt.Sprintf("generation %d: %s", h.Outcome.Generation.Number, h.Changes), ": "))
	}
	metadata.Add("unchanged", strings.Join(unchanged, ", "))
	metadata.Add("sent", publish.Sent(result.Pushed))
	paths, size := result.Union()
	metadata.Add("already there", console.Amount(paths-result.Pushed.SentPaths, size-result.Pushed.SentNarSize))
	metadata.Add("substituters", publish.SubstitutersFor(p.step.Console, p.site, result.Closures...))
	return Answer{versionOf(newest), metadata}, nil
}

// candidate is what the params say that is to be published.
func (p *put) candidate() (publish.Candidate, error) {
	params := &p.params
	revision, ask := p.revision()
	if params.Promote != "" {
		c, err := p.inputs.promotion(params.Promote)
		return about{"params.promote: " + params.Promote, c}, prefixed("params.promote", err)
	}
	if params.builds() {
		installable, host, err := params.installable(p.inputs, p.site.Config.Pointer)
		return build.Expression{Installable: installable, Host: host, When: params.Build, Revision: revision, AskRevision: ask, Nix: p.nix}, err
	}
	root := params.Path
	if params.PathFrom != "" {
		var err error
		if root, err = p.inputs.storePath(params.PathFrom); err != nil {
			return nil, prefixed("params.store_path", err)
		}
	}
	if params.Closure != "" {
		file, err := p.inputs.path(params.Closure)
		return about{"params.closure: " + params.Closure, publish.Import{File: file, Root: root, Revision: revision}}, prefixed("params.closure", err)
	}
	return build.StorePath{Path: root, Revision: revision, Nix: p.nix}, nil
}

// revision is the git commit of what is published, or whether Nix has to be asked
// for it.
func (p *put) revision() (commit string, ask bool) {
	if p.params.Flake.URL != "" {
		return "", true
	}
	from := cmp.Or(p.params.File, p.params.Flake.Dir, p.params.Closure, filepath.Dir(p.params.PathFrom))
	return build.RevisionOf(p.inputs.dir, from), false
}

// A candidate whose errors are about a param.
type about struct {
	param string
	publish.Candidate
}

// Prepare implements publish.Candidate.
func (a about) Prepare(ctx context.Context, p *publish.Preparation) (*publish.Closure, error) {
	closure, err := a.Candidate.Prepare(ctx, p)
	return closure, prefixed(a.param, err)
}

// prefixed says which param an error is about.
func prefixed(param string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", param, err)
	}
	return nil
}
