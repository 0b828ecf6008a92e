package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// maxManifestSize bounds a manifest, in bytes: a hundred times a large NixOS
// system.
const maxManifestSize = 64 << 20

// maxManifests is how many manifests are read or written side by side. Each is a
// megabyte or two for a NixOS system.
const maxManifests = 16

func manifestKey(root nix.StorePath) string { return "closures/" + root.HashPart() }

// upstreamKey marks, in a manifest, a path that isn't in the cache because the
// substituter of that URL has it. (Narinfos that lie in a cache never have it.)
const upstreamKey = "Upstream: "

// formatManifest writes the narinfos of a closure one after the other, with an
// empty line between them.
func formatManifest(paths []NarInfo) string {
	var b strings.Builder
	for i := range paths {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(strings.TrimRight(paths[i].Text(), "\n"))
		b.WriteByte('\n')
		if upstream := paths[i].Upstream(); upstream != "" {
			b.WriteString(upstreamKey + upstream + "\n")
		}
	}
	return b.String()
}

// checkManifest returns an error unless a text, which is about to be written,
// reads as the narinfos that it was made of.
func checkManifest(text string, paths []NarInfo) error {
	blocks := strings.Split(strings.TrimSuffix(text, "\n"), "\n\n")
	if len(blocks) != len(paths) {
		return fmt.Errorf("it has %d narinfos, not %d", len(blocks), len(paths))
	}
	for i, block := range blocks {
		narinfo, upstream := cutUpstream(block)
		back, err := ParseNarInfo(narinfo)
		if err == nil && (!back.equals(&paths[i]) || upstream != paths[i].Upstream()) {
			err = fmt.Errorf("that of %s reads as something else", paths[i].Path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseManifest reads what formatManifest writes, and returns what is acceptable
// of it. Paths of upstreams that are not among the substituters are left out.
//
// The manifests of a fleet say the same of what its hosts share. So a narinfo that
// was found acceptable is kept, and stands for the same text wherever that comes
// again: neither its signature nor its place in memory is paid for twice.
func (c *Cache) parseManifest(text string) (map[nix.StorePath]NarInfo, error) {
	paths := make(map[nix.StorePath]NarInfo)
	blocks, stop := iter.Pull(strings.SplitSeq(text, "\n\n"))
	defer stop()
	for more := true; more; {
		var batch [manifestBatch]string
		n := 0
		for n < len(batch) && more {
			if batch[n], more = blocks(); more {
				n++
			}
		}
		listed, err := c.parseListed(batch[:n])
		if err != nil {
			return nil, err
		}
		for _, ni := range listed {
			if ni != nil {
				paths[ni.Path] = *ni
			}
		}
	}
	return paths, nil
}

// manifestBatch is how many narinfos of a manifest are looked at side by side: on
// all cores, as it takes 0.1 ms to verify a signature.
const manifestBatch = 512

// parseListed parses narinfos of a manifest. Those that are to be left out are
// nil.
func (c *Cache) parseListed(blocks []string) ([]*NarInfo, error) {
	listed := make([]*NarInfo, len(blocks))
	var group errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		group.Go(func() (err error) {
			for i := w; i < len(blocks) && err == nil; i += workers {
				listed[i], err = c.parseOneListed(strings.TrimRight(blocks[i], "\n"))
			}
			return err
		})
	}
	return listed, group.Wait()
}

func (c *Cache) parseOneListed(block string) (*NarInfo, error) {
	if known := c.accepted.find(block); known != nil {
		if known.from != nil && known.from.lacks(known.Path.HashPart()) {
			return nil, nil
		}
		return known, nil
	}
	if strings.TrimSpace(block) == "" {
		return nil, nil
	}
	if len(block) > maxNarInfoSize {
		return nil, fmt.Errorf("a narinfo of %d bytes", len(block))
	}
	block = strings.Clone(block) // what is kept is not to keep the whole manifest
	text, upstream := cutUpstream(block)
	ni, err := ParseNarInfo(text)
	if err != nil {
		return nil, err
	}
	if upstream != "" {
		if ni.from = c.substituter(upstream); ni.from == nil || ni.from.lacks(ni.Path.HashPart()) {
			return nil, nil // the manifest alone is no reason to ask a server
		}
	}
	if ni.owner(c).acceptable(&ni) != nil {
		return nil, nil
	}
	c.accepted.add(block, &ni)
	return &ni, nil
}

// cutUpstream parts a narinfo of a manifest from the line that says whose it is,
// which is its last; "" if it has none.
func cutUpstream(block string) (text, upstream string) {
	last := strings.LastIndexByte(block, '\n') + 1
	if upstream, ok := strings.CutPrefix(block[last:], upstreamKey); ok {
		return block[:last], upstream
	}
	return block + "\n", ""
}

// accepted remembers the narinfos of manifests that were found acceptable, by their
// text: most of those of the next manifest are the same. It forgets all when it
// has maxAccepted of them.
type accepted struct {
	mu    sync.RWMutex
	known map[string]*NarInfo
}

// maxAccepted narinfos take some 50 MB.
const maxAccepted = 1 << 15

func (a *accepted) find(text string) *NarInfo {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.known[text]
}

func (a *accepted) add(text string, ni *NarInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) >= maxAccepted {
		a.known = map[string]*NarInfo{}
	}
	a.known[text] = ni
}

// substituter returns the one of that URL, or nil.
func (c *Cache) substituter(url string) *Cache {
	for _, s := range c.config.Substituters {
		if s.URL() == url {
			return s
		}
	}
	return nil
}

// readManifest returns those narinfos of a root's manifest that are acceptable.
// A manifest is a hint: if there is none, or if it isn't one, that is the same
// as an empty one, and its narinfos will be asked for one by one.
func (c *Cache) readManifest(ctx context.Context, root nix.StorePath) (map[nix.StorePath]NarInfo, error) {
	text, _, err := blob.ReadAll(ctx, c.store, manifestKey(root), maxManifestSize, blob.GetOptions{})
	err = c.absent(err)
	var tooLarge *blob.TooLargeError
	switch {
	case errors.Is(err, blob.ErrNotExist), errors.As(err, &tooLarge):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the manifest of %s: %w", root, err)
	}
	paths, err := c.parseManifest(string(text))
	if err != nil {
		return nil, nil //nolint:nilerr // see above
	}
	return paths, nil
}

// writeManifests publishes the manifests of closures that are whole in the cache.
func (c *Cache) writeManifests(ctx context.Context, closures []*Closure) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxManifests)
	for _, closure := range closures {
		group.Go(func() error { return c.writeManifest(ctx, closure) })
	}
	return group.Wait()
}

// writeManifest publishes the manifest of a closure that is whole in the cache.
func (c *Cache) writeManifest(ctx context.Context, closure *Closure) error {
	text := formatManifest(closure.Paths)
	if err := checkManifest(text, closure.Paths); err != nil {
		return fmt.Errorf("the manifest that was made for %s is not valid: %w", closure.Root, err)
	}
	if len(text) > maxManifestSize {
		return nil // readers would refuse it; they do without, path by path
	}
	_, err := c.store.Put(ctx, manifestKey(closure.Root), strings.NewReader(text), blob.PutOptions{
		ContentType:  manifestType,
		CacheControl: volatile,
	})
	if err != nil {
		return fmt.Errorf("writing the manifest of %s: %w", closure.Root, err)
	}
	return nil
}
