package cache

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Source has the bytes of store paths.
type Source interface {
	// DumpNAR writes the NAR of path to w. It is called from several goroutines.
	DumpNAR(ctx context.Context, path nix.StorePath, w io.Writer) error
}

// A PushRequest says what to push.
type PushRequest struct {
	Root   nix.StorePath
	Also   []nix.StorePath // further roots: what the closures share is looked for once, and sent once
	Infos  []nix.PathInfo  // the closures of the roots in the source, each path once, in any order
	Source Source

	// Previous are closures that the cache was found to have, such as that of
	// the pointer's newest: their manifests spare looking at each path.
	Previous []*Closure

	// Upstreams are those substituters whose paths need not be uploaded, since
	// whoever uses this cache uses them, too.
	Upstreams []*Cache

	Meter *Meter // may be nil
}

// Pushed says what a push has done.
type Pushed struct {
	Closure *Closure   // of Root, as the cache now has it
	Also    []*Closure // those of the further roots, in their order

	SentPaths   int   // paths whose NAR was uploaded
	SentNarSize int64 // of those, uncompressed, in bytes
	SentBytes   int64 // of those, as they were sent
	Signed      int   // narinfos that were there and that we added a signature to

	// Unaddressed are paths that were sent without the content address that the
	// source has for them: it doesn't hold.
	Unaddressed []nix.StorePath

	// Unreproducible are paths that the cache has with another content than
	// the source. The cache's is the truth.
	Unreproducible []nix.StorePath

	cache  *Cache
	leases []string // their keys
}

// Release gives up the leases on what the push relied on. Call it when pointers
// lead to the closures. It may be called again, and does nothing then.
func (p *Pushed) Release(ctx context.Context) error {
	leases := p.leases
	p.leases = nil
	return p.cache.dropLeases(ctx, leases)
}

// Push makes the closures of the roots whole and acceptable in the cache,
// sending what isn't there yet, and then publishes their manifests. It can be
// repeated, and interrupted, at any time.
func (c *Cache) Push(ctx context.Context, req PushRequest) (*Pushed, error) {
	roots := append([]nix.StorePath{req.Root}, req.Also...)
	local, err := indexClosures(roots, req.Infos)
	if err != nil {
		return nil, err
	}
	pushed := &Pushed{cache: c}
	closures, listed, err := c.begin(ctx, roots, req.Previous, pushed)
	if err == nil && slices.Contains(closures, nil) {
		err = c.push(ctx, req, local, listed, roots, closures, pushed)
	}
	if err != nil {
		pushed.Release(ctx) // if that fails, its age will tell
		return nil, err
	}
	pushed.Closure, pushed.Also = closures[0], closures[1:]
	pushed.compare(local)
	return pushed, nil
}

// begin reads what the manifests of the roots list and takes the leases, side by
// side. A root that the cache was found to have and whose manifest still holds needs
// no lease: nothing is sent for it.
func (c *Cache) begin(ctx context.Context, roots []nix.StorePath, previous []*Closure, pushed *Pushed) ([]*Closure, map[nix.StorePath]NarInfo, error) {
	isPrevious := func(root nix.StorePath) bool {
		return slices.ContainsFunc(previous, func(p *Closure) bool { return p.Root == root })
	}
	var leasing errgroup.Group
	leasing.Go(func() (err error) {
		pushed.leases, err = c.takeLeases(ctx, slices.DeleteFunc(slices.Clone(roots), isPrevious))
		return err
	})
	closures, listed, err := c.manifests(ctx, roots, previous)
	if leaseErr := leasing.Wait(); err == nil {
		err = leaseErr
	}
	if err != nil {
		return nil, nil, err
	}
	var stale []nix.StorePath
	for i, root := range roots {
		if closures[i] == nil && isPrevious(root) {
			stale = append(stale, root)
		}
	}
	leases, err := c.takeLeases(ctx, stale)
	pushed.leases = append(pushed.leases, leases...)
	return closures, listed, err
}

// push completes those closures that are nil.
func (c *Cache) push(ctx context.Context, req PushRequest, local map[nix.StorePath]nix.PathInfo, listed map[nix.StorePath]NarInfo, roots []nix.StorePath, closures []*Closure, pushed *Pushed) error {
	var incomplete []int
	for i, closure := range closures {
		if closure != nil {
			req.Previous = append(slices.Clip(req.Previous), closure)
		} else {
			incomplete = append(incomplete, i)
		}
	}
	begun := false
	if !slices.ContainsFunc(req.Previous, func(p *Closure) bool { return p.listed }) {
		var err error
		if begun, err = c.ensureInfo(ctx); err != nil { // whoever wrote a manifest has done this before
			return err
		}
	}
	// A cache that has just begun has nothing that would have to be asked for;
	// if another writer is as quick as we are, publish finds out.
	have, err := c.present(ctx, req, local, listed, begun && c.store.Capabilities().Conditional)
	if err != nil {
		return err
	}
	var send []nix.PathInfo
	var sign []NarInfo
	for _, info := range req.Infos {
		ni, ok := have[info.Path]
		if !ok {
			send = append(send, info)
			continue
		}
		if ni.from != nil {
			continue
		}
		vouchedFor := ni.SignedBy(c.config.PublicKeys)
		same := sameContent(&ni.PathInfo, &info)
		switch {
		case vouchedFor && ni.signedByAll(c.config.SigningKeys):
		case vouchedFor, same && len(c.config.SigningKeys) > 0:
			sign = append(sign, ni)
		case !c.config.RequireSigs:
		case same:
			if err := c.acceptable(&ni); err != nil {
				return c.refuse(&ni, err)
			}
		default:
			return hint.With(fmt.Errorf("%s is in %s already, with another content (NarHash %s, here %s) and %w",
				info.Path, c, ni.NarHash, info.NarHash, ErrUntrusted),
				"if you don't know who pushed it, delete %s from the cache", narinfoKey(info.Path))
		}
	}

	signed, err := c.signAll(ctx, sign)
	if err != nil {
		return err
	}
	pushed.Signed = len(signed)
	maps.Copy(have, signed)

	var completed []*Closure
	for {
		if err := c.send(ctx, req, send, have, pushed); err != nil {
			return err
		}
		completed = nil
		for _, i := range incomplete {
			if closures[i], _, err = c.complete(ctx, roots[i], have); err != nil {
				return err
			}
			completed = append(completed, closures[i])
		}
		away, err := c.checkUpstream(ctx, completed)
		if err != nil {
			return err
		}
		if len(away) == 0 {
			break
		}
		// What was left to an upstream that can't be asked any more has to be sent.
		send = nil
		for _, info := range req.Infos {
			if away[info.Path] {
				delete(have, info.Path)
				send = append(send, info)
			}
		}
	}
	return c.writeManifests(ctx, completed)
}

// send sends paths that the cache doesn't have, and adds them to those that it has.
func (c *Cache) send(ctx context.Context, req PushRequest, send []nix.PathInfo, have map[nix.StorePath]NarInfo, pushed *Pushed) error {
	u, err := c.newUploader(req.Source, req.Meter)
	if err != nil {
		return err
	}
	sent, err := u.upload(ctx, send)
	if err != nil {
		return err
	}
	pushed.Unaddressed = nix.SortPaths(append(pushed.Unaddressed, u.dropped...))
	for _, ni := range sent {
		pushed.SentPaths++
		pushed.SentNarSize += ni.NarSize
		pushed.SentBytes += ni.FileSize
		have[ni.Path] = ni
	}
	return nil
}

// compare notes which paths the cache has with another content.
func (p *Pushed) compare(local map[nix.StorePath]nix.PathInfo) {
	noted := map[nix.StorePath]bool{}
	for _, closure := range append([]*Closure{p.Closure}, p.Also...) {
		for i := range closure.Paths {
			ni := &closure.Paths[i]
			if info, ok := local[ni.Path]; ok && info.NarHash != ni.NarHash && !noted[ni.Path] {
				noted[ni.Path] = true
				p.Unreproducible = append(p.Unreproducible, ni.Path)
			}
		}
	}
}

// indexClosures checks that infos are the closures of roots, whole.
func indexClosures(roots []nix.StorePath, infos []nix.PathInfo) (map[nix.StorePath]nix.PathInfo, error) {
	local := make(map[nix.StorePath]nix.PathInfo, len(infos))
	for _, info := range infos {
		local[info.Path] = info
	}
	for _, root := range roots {
		if _, ok := local[root]; !ok {
			return nil, fmt.Errorf("%s is not part of its own closure", root)
		}
	}
	for _, info := range infos {
		for _, ref := range info.References {
			if _, ok := local[ref]; !ok {
				return nil, fmt.Errorf("the closure of %s is not whole: %s refers to %s", roots[0], info.Path, ref)
			}
		}
	}
	return local, nil
}
