package resource

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// An origin is where promotions come from, and whom to believe there.
type origin struct {
	Cache             cacheURL // without a store: the source's own
	Access            blob.Config
	PublicKeys        nix.Keys // trusted for paths
	PointerPublicKeys nix.Keys // trusted for pointers
	RequireSigs       bool
}

// decodeOrigin takes from: the URL of a cache, or an object in the words of the
// source. What it doesn't say is as in the source; but pointers may be signed by
// our key for paths, too: who builds a candidate need not hold the key of who
// releases it.
func decodeOrigin(o *object, s *Source) origin {
	from := origin{
		PublicKeys:        s.PublicKeys,
		PointerPublicKeys: union(publicHalves(s.SigningKeys), s.PointerPublicKeys),
		RequireSigs:       s.RequireSigs,
	}
	raw, ok := o.raw("from")
	if !ok {
		return from
	}
	e := o.element("from", raw, "cache")
	defer e.finish()
	from.Cache = parsed(e, "cache", parseCacheURL)
	from.Access = decodeAccess(e)
	from.RequireSigs = e.flag("require_sigs", s.RequireSigs)
	if trusted := keys(e, "trusted_public_keys", nix.ParsePublicKey); len(trusted) > 0 {
		from.PublicKeys, from.PointerPublicKeys = trusted, trusted
	}
	if trusted := keys(e, "pointer_public_keys", nix.ParsePublicKey); len(trusted) > 0 {
		from.PointerPublicKeys = trusted
	}
	return from
}

// promote returns the closure of the generation that a get has left in the
// inputs. That is verified before anything is done with it, and so is, before
// anything is copied, that all pointers may move to it.
func (p *publisher) promote(ctx context.Context) (*publication, error) {
	from := &p.source.From
	name, tested, err := p.inputs.tested(p.params.Promote)
	if err != nil {
		return nil, fmt.Errorf("params.promote: %w", err)
	}
	origin := &pointer.Origin{Pointer: name, Generation: tested.Number}
	if from.RequireSigs {
		if origin, err = tested.Origin(name, from.PointerPublicKeys); err != nil {
			return nil, fmt.Errorf("params.promote: %s: %w", p.params.Promote, err)
		}
	}
	if slices.Contains(p.params.To, p.source.Pointer) {
		return nil, hint.With(fmt.Errorf("params.to: %s is the source's own pointer", p.source.Pointer), "leave it out: it moves last, without being named")
	}
	store, candidates, err := p.origin(ctx)
	if err != nil {
		return nil, err
	}
	if store == p.store && name == p.source.Pointer {
		return nil, hint.With(fmt.Errorf("params.promote: %s is a generation of %s itself", p.params.Promote, name),
			"to go back to it, put its path: store_path: %s/path", p.params.Promote)
	}
	if tested.Expired(time.Now()) && !from.renewed(ctx, store, name, tested) {
		return nil, hint.With(fmt.Errorf("params.promote: generation %d of %s expired at %s", tested.Number, name, formatTime(tested.Expires)),
			"promote a newer one, or put its path to %s again, which renews it", name)
	}

	closure, err := candidates.Closure(ctx, tested.Path)
	if err != nil && store == p.store {
		err = hint.With(err, "if the closure is in another cache, name that in source.from, or get %s with format: cache", name)
	}
	if err != nil {
		return nil, err
	}
	if err := isStill(tested, closure, candidates); err != nil {
		return nil, err
	}
	pub := inCache(candidates, closure)
	pub.system = tested.System
	pub.details = pointer.Details{
		Origin:   origin,
		Revision: tested.Details.Revision,
		Message:  cmp.Or(p.params.Message, tested.Details.Message),
	}
	for _, target := range p.targets {
		if err := target.pointer.Preview(ctx, p.proposal(target, pub, closure)); err != nil {
			return nil, err
		}
	}
	return pub, nil
}

// origin returns where the closure to promote is, and its cache there: the one
// that the source names; or else what the get has left; or else our own.
func (p *publisher) origin(ctx context.Context) (blob.Store, *cache.Cache, error) {
	from := &p.source.From
	store := p.store
	if from.Cache.store != nil {
		var err error
		if store, err = blob.Open(ctx, from.Cache.store, from.Access); err != nil {
			return nil, nil, fmt.Errorf("source.from: %w", err)
		}
	} else if dir, err := p.inputs.path(filepath.Join(p.params.Promote, "cache")); err == nil {
		store = blob.NewDirectory(dir)
	}
	if store == p.store {
		return store, p.here, nil
	}
	return store, cache.New(store, cache.Config{PublicKeys: from.PublicKeys, RequireSigs: from.RequireSigs}), nil
}

// renewed says whether a generation that had expired when it was got has been
// renewed since: a renewal is no new version, so it isn't got again.
func (from *origin) renewed(ctx context.Context, store blob.Store, name pointer.Name, tested pointer.Generation) bool {
	now, err := pointer.New(store, pointer.Config{Name: name, PublicKeys: from.PointerPublicKeys, RequireSigs: from.RequireSigs}).Find(ctx, tested.Number)
	return err == nil && now.Path == tested.Path && now.NarHash == tested.NarHash && !now.Expired(time.Now())
}

// accepts returns an error if what is promoted is not, byte for byte, what was
// tested: the cache had other bytes under the same path.
func (pub *publication) accepts(pushed *cache.Pushed) error {
	if pub.details.Origin == nil || len(pushed.Unreproducible) == 0 {
		return nil
	}
	return hint.With(fmt.Errorf("what would be promoted is not what was tested: the cache has other bytes for %s", pushed.Unreproducible[0]),
		"it is not reproducible, and was pushed here from another build: test what is in this cache, and promote that")
}

// tested returns the generation that a get has left in the named directory, and
// the name of its pointer. Neither is verified.
func (in *inputs) tested(dir string) (name pointer.Name, g pointer.Generation, err error) {
	defer func() {
		err = hint.With(err, "want the directory of a get of another pointer")
	}()
	if err := in.check(dir); err != nil {
		return "", g, err
	}
	line, err := in.line(filepath.Join(dir, "pointer"))
	if err != nil {
		return "", g, err
	}
	if name, err = pointer.ParseName(line); err != nil {
		return "", g, fmt.Errorf("%s/pointer: %w", dir, err)
	}
	file := filepath.Join(dir, resultFile)
	f, err := in.root.Open(file)
	if err != nil {
		return "", g, in.explain(file, err)
	}
	defer f.Close()
	const longest = 16 * pointer.MaxEntry // indented, and by later versions
	data, err := io.ReadAll(io.LimitReader(f, longest))
	if err == nil {
		err = json.Unmarshal(data, &g)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return name, g, err
}
