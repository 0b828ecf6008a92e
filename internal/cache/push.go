package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
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
	Infos  []nix.PathInfo // the closure of Root in the source, in any order
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
	Closure *Closure // as the cache now has it

	SentPaths   int   // paths whose NAR was uploaded
	SentNarSize int64 // of those, uncompressed, in bytes
	SentBytes   int64 // of those, as they were sent
	Signed      int   // narinfos that were there and that we added a signature to

	// Unreproducible are paths that the cache has with another content than
	// the source. The cache's is the truth.
	Unreproducible []nix.StorePath

	cache *Cache
	lease string // its key, or empty
}

// Release gives up the lease on what the push relied on. Call it when a pointer
// leads to the closure.
func (p *Pushed) Release(ctx context.Context) error {
	if p.lease == "" {
		return nil
	}
	return p.cache.store.Delete(ctx, p.lease)
}

// Push makes the closure of a root whole and acceptable in the cache, sending
// what isn't there yet, and then publishes its manifest. It can be repeated,
// and interrupted, at any time.
func (c *Cache) Push(ctx context.Context, req PushRequest) (*Pushed, error) {
	local, err := indexClosure(req.Root, req.Infos)
	if err != nil {
		return nil, err
	}
	known, published, err := c.manifest(ctx, req)
	if err != nil {
		return nil, err
	}
	pushed := &Pushed{cache: c}
	if closure := c.vouched(req.Root, known); closure != nil {
		pushed.Closure = closure
		pushed.compare(local)
		if !published {
			pushed.lease, err = c.takeLease(ctx, req.Root)
		}
		return pushed, err
	}

	if pushed.lease, err = c.takeLease(ctx, req.Root); err != nil {
		return nil, err
	}
	if err := c.push(ctx, req, local, known, pushed); err != nil {
		if ctx.Err() == nil {
			pushed.Release(ctx) // otherwise its age will tell
		}
		return nil, err
	}
	return pushed, nil
}

// manifest returns what the manifest of the request's root lists, and whether
// the root is among those that went before.
func (c *Cache) manifest(ctx context.Context, req PushRequest) (known map[nix.StorePath]NarInfo, published bool, err error) {
	for _, closure := range req.Previous {
		if closure.Root != req.Root {
			continue
		}
		published = true
		if closure.listed {
			return closure.byPath(), true, nil
		}
	}
	known, err = c.readManifest(ctx, req.Root)
	return known, published, err
}

func (c *Cache) push(ctx context.Context, req PushRequest, local map[nix.StorePath]nix.PathInfo, known map[nix.StorePath]NarInfo, pushed *Pushed) error {
	begun, err := c.ensureInfo(ctx)
	if err != nil {
		return err
	}
	// A cache that has just begun has nothing that would have to be asked for;
	// if another writer is as quick as we are, publish finds out.
	have, err := c.present(ctx, req, local, known, begun && c.store.Capabilities().Conditional)
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
				info.Path, c, ni.NarHash, info.NarHash, errUntrusted),
				"if you don't know who pushed it, delete %s from the cache", narinfoKey(info.Path))
		}
	}

	signed, err := c.signAll(ctx, sign)
	if err != nil {
		return err
	}
	pushed.Signed = len(signed)
	maps.Copy(have, signed)

	sent, err := c.upload(ctx, req.Source, send, req.Meter)
	if err != nil {
		return err
	}
	for _, ni := range sent {
		pushed.SentPaths++
		pushed.SentNarSize += ni.NarSize
		pushed.SentBytes += ni.FileSize
		have[ni.Path] = ni
	}

	closure, _, err := c.complete(ctx, req.Root, have)
	if err != nil {
		return err
	}
	if err := c.checkUpstream(ctx, closure); err != nil {
		return err
	}
	pushed.Closure = closure
	pushed.compare(local)
	return c.writeManifest(ctx, closure)
}

// checkUpstream makes sure that what is left to upstreams is there now, when
// the closure is published.
func (c *Cache) checkUpstream(ctx context.Context, closure *Closure) error {
	wanted := map[*Cache][]nix.StorePath{}
	for i := range closure.Paths {
		if ni := &closure.Paths[i]; ni.from != nil {
			wanted[ni.from] = append(wanted[ni.from], ni.Path)
		}
	}
	for upstream, paths := range wanted {
		found, err := upstream.lookupAll(ctx, paths)
		if err != nil {
			return err
		}
		for _, path := range paths {
			if _, ok := found[path]; !ok {
				return hint.With(fmt.Errorf("%s has disappeared from the upstream cache %s", path, upstream),
					"run again to push it; if this upstream deletes things, take it off skip_upstream")
			}
		}
	}
	return nil
}

// compare notes which paths the cache has with another content.
func (p *Pushed) compare(local map[nix.StorePath]nix.PathInfo) {
	for i := range p.Closure.Paths {
		ni := &p.Closure.Paths[i]
		if info, ok := local[ni.Path]; ok && info.NarHash != ni.NarHash {
			p.Unreproducible = append(p.Unreproducible, ni.Path)
		}
	}
}

// indexClosure checks that infos are root's closure, whole.
func indexClosure(root nix.StorePath, infos []nix.PathInfo) (map[nix.StorePath]nix.PathInfo, error) {
	local := make(map[nix.StorePath]nix.PathInfo, len(infos))
	for _, info := range infos {
		local[info.Path] = info
	}
	if _, ok := local[root]; !ok {
		return nil, fmt.Errorf("%s is not part of its own closure", root)
	}
	for _, info := range infos {
		for _, ref := range info.References {
			if _, ok := local[ref]; !ok {
				return nil, fmt.Errorf("the closure of %s is not whole: %s refers to %s", root, info.Path, ref)
			}
		}
	}
	return local, nil
}

// vouched returns the closure of root if known narinfos cover it, each of
// the cache itself signed by all of our keys; otherwise nil.
func (c *Cache) vouched(root nix.StorePath, known map[nix.StorePath]NarInfo) *Closure {
	reached := make(map[nix.StorePath]NarInfo, len(known))
	frontier := []nix.StorePath{root}
	for len(frontier) > 0 {
		path := frontier[len(frontier)-1]
		frontier = frontier[:len(frontier)-1]
		if _, ok := reached[path]; ok {
			continue
		}
		ni, ok := known[path]
		if !ok || ni.from == nil && !ni.signedByAll(c.config.SigningKeys) {
			return nil
		}
		reached[path] = ni
		frontier = append(frontier, ni.References...)
	}
	sorted, err := sortClosure(root, reached)
	if err != nil {
		return nil
	}
	return &Closure{Root: root, Paths: sorted, listed: true}
}

// present finds out which paths the cache has: from the manifests of previous
// roots, and by asking for the rest, unless the cache is empty. The narinfos
// need not be acceptable.
func (c *Cache) present(ctx context.Context, req PushRequest, local map[nix.StorePath]nix.PathInfo, known map[nix.StorePath]NarInfo, empty bool) (map[nix.StorePath]NarInfo, error) {
	have := wholeOnly(known)
	for _, closure := range req.Previous {
		if closure.listed {
			maps.Copy(have, closure.byPath())
		}
	}
	var ask []nix.StorePath
	for path := range local {
		if _, ok := have[path]; !ok {
			ask = append(ask, path)
		}
	}
	found := map[nix.StorePath]NarInfo{}
	if !empty {
		var err error
		if found, err = c.lookupAll(ctx, nix.SortPaths(ask)); err != nil {
			return nil, err
		}
	}
	if err := c.lookupUpstream(ctx, ask, found, req.Upstreams); err != nil {
		return nil, err
	}
	maps.Copy(have, found)
	return have, nil
}

// wholeOnly returns those paths of a manifest whose closure is in it: it vouches
// for no others.
func wholeOnly(manifest map[nix.StorePath]NarInfo) map[nix.StorePath]NarInfo {
	whole := make(map[nix.StorePath]NarInfo, len(manifest))
	maps.Copy(whole, manifest)
	for dropped := true; dropped; {
		dropped = false
		maps.DeleteFunc(whole, func(path nix.StorePath, ni NarInfo) bool {
			lacks := slices.ContainsFunc(ni.References, func(ref nix.StorePath) bool {
				_, ok := whole[ref]
				return !ok
			})
			dropped = dropped || lacks
			return lacks
		})
	}
	return whole
}

// signAll adds our signatures to narinfos that are there.
func (c *Cache) signAll(ctx context.Context, narinfos []NarInfo) (map[nix.StorePath]NarInfo, error) {
	signed := make([]NarInfo, len(narinfos))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxUploads)
	for i, ni := range narinfos {
		group.Go(func() (err error) {
			signed[i], err = c.sign(ctx, ni)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	result := make(map[nix.StorePath]NarInfo, len(signed))
	for _, ni := range signed {
		result[ni.Path] = ni
	}
	return result, nil
}

// maxAttempts bounds how often a compare-and-swap is tried again because
// another writer was faster. Each failure means that another has succeeded.
const maxAttempts = 20

// sign adds our signatures to the narinfo of a path, whose content is either
// vouched for by a trusted key or the same as that of our own store. In the
// latter case nobody has vouched for the file, which is therefore looked at.
func (c *Cache) sign(ctx context.Context, seen NarInfo) (NarInfo, error) {
	if !seen.SignedBy(c.config.PublicKeys) {
		if err := c.verifyNAR(ctx, &seen, nil, io.Discard); err != nil {
			return NarInfo{}, err
		}
	}
	var lost error
	for range maxAttempts {
		ni, etag, err := c.lookup(ctx, seen.Path)
		if err != nil {
			return NarInfo{}, err
		}
		if !sameContent(&ni.PathInfo, &seen.PathInfo) || ni.URL != seen.URL {
			return NarInfo{}, hint.With(fmt.Errorf("the narinfo of %s in %s has changed while we were looking at it", ni.Path, c), "run again")
		}
		if !ni.addSignatures(c.config.SigningKeys) {
			return ni, nil
		}
		if lost != nil {
			return NarInfo{}, lost
		}
		err = c.replace(ctx, narinfoKey(ni.Path), ni.Text(), etag)
		switch {
		case err == nil:
			return ni, nil
		case errors.Is(err, blob.ErrPrecondition):
		case errors.Is(err, blob.ErrPermission), errors.Is(err, blob.ErrReadOnly), ctx.Err() != nil:
			return NarInfo{}, err
		default:
			lost = err // perhaps only the answer: the next look will tell
		}
	}
	return NarInfo{}, fmt.Errorf("signing %s in %s: other writers were faster %d times", seen.Path, c, maxAttempts)
}

// replace writes a narinfo over the one with that ETag.
func (c *Cache) replace(ctx context.Context, key, text, etag string) error {
	opts := blob.PutOptions{ContentType: narinfoType}
	if c.store.Capabilities().Conditional {
		opts.IfMatch = etag
	}
	return c.put(ctx, key, text, opts)
}
