package publish

import (
	"context"
	"fmt"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// A Promotion is a candidate: a generation of another pointer, whose closure was
// tested. It is verified before anything is done with it, and so is, before
// anything is copied, that all pointers may move to it.
type Promotion struct {
	Pointer    pointer.Name
	Generation pointer.Generation // not verified yet
	CacheDir   string             // a cache that has the closure, left by an earlier step; "" for the site's origin
}

// FindPromotion returns a generation of a pointer of the site's origin as a
// promotion; 0 is the newest.
func FindPromotion(ctx context.Context, s *site.Site, name pointer.Name, number uint64) (Promotion, error) {
	origin, err := s.Origin(ctx)
	if err != nil {
		return Promotion{}, err
	}
	p := origin.Pointer(name)
	history, err := p.Read(ctx)
	if err != nil {
		return Promotion{}, err
	}
	if newest, ok := history.Newest(); ok && number == 0 {
		number = newest.Number
	}
	g, err := p.FindIn(ctx, history, max(1, number))
	return Promotion{Pointer: name, Generation: g}, err
}

// Prepare implements Candidate.
func (c Promotion) Prepare(ctx context.Context, p *Preparation) (*Closure, error) {
	from, name, g := &p.Site.From, c.Pointer, c.Generation
	signed := &pointer.Origin{Pointer: name, Generation: g.Number}
	if from.RequireSigs {
		var err error
		if signed, err = g.Origin(name, from.PointerPublicKeys); err != nil {
			return nil, err
		}
	}
	origin, err := c.origin(ctx, p.Site)
	if err != nil {
		return nil, err
	}
	own := origin.Store == p.Site.Store
	if own && name == p.Pointer {
		return nil, hint.Usage(hint.With(fmt.Errorf("generation %d is one of %s itself", g.Number, name), "to go back to it, %s", hint.Term("put its path (store_path)")))
	}
	if g.Expired(time.Now()) && !renewed(ctx, origin, name, g) {
		return nil, hint.With(fmt.Errorf("generation %d of %s expired at %s", g.Number, name, console.Time(g.Expires)),
			"promote a newer one, or publish its path to %s again, which renews it", name)
	}
	closure, err := origin.Cache.Closure(ctx, g.Path)
	if err != nil && own {
		err = hint.With(err, "if the closure is in another cache, name that in %s, or get %s with %s", hint.Term("from"), name, hint.Term("format: cache"))
	}
	if err != nil {
		return nil, err
	}
	if err := site.CheckUnchanged(g, closure.RootInfo(), origin.Cache); err != nil {
		return nil, err
	}
	promoted := &Closure{
		Root: closure.Root, Infos: closure.Infos(), Source: origin.Cache.Source(closure), System: g.System,
		Origin: signed, Revision: g.Details.Revision, Message: g.Details.Message, Close: nothing,
	}
	if own {
		promoted.Found = closure
	}
	return promoted, nil
}

// origin opens where the closure to promote is: what the site names; or else what
// an earlier step has left; or else the site's own.
func (c Promotion) origin(ctx context.Context, s *site.Site) (*site.Site, error) {
	if c.CacheDir != "" && s.From.Cache.IsZero() {
		return s.OriginIn(blob.NewDirectory(c.CacheDir)), nil
	}
	return s.Origin(ctx)
}

// renewed says whether a generation that had expired when it was got has been
// renewed since: a renewal is no new version, so it isn't got again.
func renewed(ctx context.Context, origin *site.Site, name pointer.Name, g pointer.Generation) bool {
	now, err := origin.Pointer(name).Find(ctx, g.Number)
	return err == nil && now.Path == g.Path && now.NarHash == g.NarHash && !now.Expired(time.Now())
}

func nothing() error { return nil }
