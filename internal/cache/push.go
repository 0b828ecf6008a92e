package cache

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

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

func (c *Cache) push(ctx context.Context, req PushRequest, local map[nix.StorePath]nix.PathInfo, known map[nix.StorePath]NarInfo, pushed *Pushed) error {
	begun := false
	if !slices.ContainsFunc(req.Previous, func(p *Closure) bool { return p.listed }) {
		var err error
		if begun, err = c.ensureInfo(ctx); err != nil { // whoever wrote a manifest has done this before
			return err
		}
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
