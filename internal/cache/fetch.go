package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// maxFetches is how many NARs are fetched side by side. Each takes about
// 0.3 MiB of memory, or as much as its compression's window demands (8 MiB for
// what we, zstd -19 and xz -6 write of large NARs).
const maxFetches = 16

// A Sink takes the NARs of store paths.
type Sink interface {
	// Restore unpacks the NAR of path. It is called from several goroutines, in
	// no particular order. It must read nar to io.EOF: any other error says
	// that what it has read so far is not to be believed.
	Restore(ctx context.Context, path nix.StorePath, nar io.Reader) error
}

// Fetch gives the NAR of each path of the closure to sink, verified. If it
// fails, the sink may have been given paths in part.
func (c *Cache) Fetch(ctx context.Context, closure *Closure, sink Sink, meter *Meter) error {
	return c.eachNAR(ctx, closure, meter, func(ctx context.Context, ni *NarInfo) error {
		r, err := c.openNAR(ctx, ni, nil)
		if err != nil {
			return err
		}
		defer r.Close()
		if err := sink.Restore(ctx, ni.Path, io.TeeReader(r, meter)); err != nil {
			return err
		}
		if r.err != io.EOF {
			return fmt.Errorf("%s was not read to its end", ni.Path)
		}
		return nil
	})
}

// Copy makes dst, which is empty, a cache that holds the closure, with the files as
// they are in c, verified. The files have names of our own: whoever has written c
// doesn't decide where we write. Narinfos become visible after their NAR and after
// those of their references; the manifest comes last.
func (c *Cache) Copy(ctx context.Context, closure *Closure, dst blob.Store, meter *Meter) error {
	to := New(dst, Config{})
	if _, err := to.ensureInfo(ctx); err != nil {
		return err
	}
	copied := &Closure{Root: closure.Root, Paths: slices.Clone(closure.Paths)}
	index := make(map[nix.StorePath]*NarInfo, len(copied.Paths))
	for i := range copied.Paths {
		index[copied.Paths[i].Path] = &copied.Paths[i]
	}
	err := c.eachNAR(ctx, closure, meter, func(ctx context.Context, ni *NarInfo) error {
		return c.copyNAR(ctx, ni, dst, index[ni.Path], meter)
	})
	if err != nil {
		return err
	}
	for i := range copied.Paths {
		if _, err := to.publish(ctx, copied.Paths[i]); err != nil {
			return err
		}
	}
	return to.writeManifest(ctx, copied)
}

// copyNAR copies the file of a path to dst, and describes it there.
func (c *Cache) copyNAR(ctx context.Context, ni *NarInfo, dst blob.Store, there *NarInfo, meter *Meter) error {
	r, w := io.Pipe()
	file := newDigest(w)
	verified := make(chan error, 1)
	go func() {
		err := c.readNAR(ctx, ni, file, meter, false)
		w.CloseWithError(err) // the end of the file, if err is nil
		verified <- err
	}()
	*there = NarInfo{PathInfo: ni.PathInfo, URL: "nar/" + ni.Path.HashPart() + suffixOf(ni.Compression), Compression: ni.Compression}
	_, err := dst.Put(ctx, there.URL, r, narOptions())
	r.CloseWithError(errors.New("the copy has failed"))
	if verifyErr := <-verified; err == nil {
		err = verifyErr
	}
	there.FileHash, there.FileSize = nix.SumHash(file.hash), file.size
	return err
}

// eachNAR calls do for each path of the closure, the largest first, several at
// a time.
func (c *Cache) eachNAR(ctx context.Context, closure *Closure, meter *Meter, do func(context.Context, *NarInfo) error) error {
	paths := make([]*NarInfo, len(closure.Paths))
	for i := range closure.Paths {
		paths[i] = &closure.Paths[i]
		meter.expect(1, paths[i].NarSize)
	}
	slices.SortStableFunc(paths, func(a, b *NarInfo) int { return cmp.Compare(b.NarSize, a.NarSize) })

	var next atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	for range min(maxFetches, len(paths)) {
		group.Go(func() error { // a goroutine for many, as its stack takes time to grow
			for groupCtx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(paths) {
					break
				}
				if err := do(groupCtx, paths[i]); err != nil {
					return err
				}
				meter.done()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
