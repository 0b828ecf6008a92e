package cache

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
)

// How far FetchInOrder reads ahead: so many NARs, and so many chunks of each.
// Most NARs of a system are no larger than that, so that waiting for one is
// waiting for all; in all it is 16 MiB, besides what maxFetches says of each. A
// larger NAR is begun when its turn has come: no server is kept waiting for us
// to read on, which many don't put up with.
const (
	maxAhead    = 8
	chunksAhead = 32
	chunkSize   = 64 << 10 // bytes
)

// FetchInOrder is Fetch that gives the NARs to sink one at a time, in the order
// of their paths.
func (c *Cache) FetchInOrder(ctx context.Context, closure *Closure, sink Sink, meter *Meter) error {
	var paths []*NarInfo
	for i := range closure.Paths {
		paths = append(paths, &closure.Paths[i])
		meter.expect(1, closure.Paths[i].NarSize)
	}
	slices.SortFunc(paths, func(a, b *NarInfo) int { return a.Path.Compare(b.Path) })

	ctx, cancel := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	idle := make(chan []byte, maxAhead*chunksAhead)
	queue := make(chan *aheadReader, maxAhead-2) // one more is being taken, and one waits for room here
	readers.Go(func() {
		defer close(queue)
		for _, ni := range paths {
			a := &aheadReader{ni: ni, turn: make(chan struct{}), chunks: make(chan []byte, chunksAhead), idle: idle}
			readers.Go(func() { a.fill(ctx, c, meter) })
			select {
			case queue <- a:
			case <-ctx.Done():
				return
			}
		}
	})
	for a := range queue {
		close(a.turn)
		if err := sink.Restore(ctx, a.ni.Path, a); err != nil {
			return err
		}
		if !a.ended {
			return fmt.Errorf("%s was not read to its end", a.ni.Path)
		}
		meter.done()
	}
	return ctx.Err()
}

// An aheadReader reads a NAR, verified, before it is asked to.
type aheadReader struct {
	ni     *NarInfo
	turn   chan struct{} // closed when it is
	chunks chan []byte   // that were read
	idle   chan []byte   // chunks to use again
	err    error         // after chunks is closed: that of the NAR, io.EOF if all is well

	chunk, rest []byte // being handed out, and what is left of it
	ended       bool   // Read has returned io.EOF
}

// fill reads the NAR.
func (a *aheadReader) fill(ctx context.Context, c *Cache, meter *Meter) {
	defer close(a.chunks)
	if a.ni.NarSize > chunksAhead*chunkSize {
		select {
		case <-a.turn:
		case <-ctx.Done():
			a.err = ctx.Err()
			return
		}
	}
	r, err := c.openNAR(ctx, a.ni, nil)
	if err != nil {
		a.err = err
		return
	}
	defer r.Close()
	for a.err == nil {
		var chunk []byte
		select {
		case chunk = <-a.idle:
		default:
			chunk = make([]byte, chunkSize)
		}
		n, err := io.ReadFull(r, chunk[:chunkSize]) // or else small reads would use up the chunks
		if err != nil {
			a.err = r.err
		}
		meter.Write(chunk[:n])
		if n == 0 {
			break
		}
		select {
		case a.chunks <- chunk[:n]:
		case <-ctx.Done():
			a.err = ctx.Err()
		}
	}
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.chunk != nil {
			select {
			case a.idle <- a.chunk:
			default:
			}
			a.chunk = nil
		}
		chunk, ok := <-a.chunks
		if !ok {
			a.ended = a.err == io.EOF
			return 0, a.err
		}
		a.chunk, a.rest = chunk, chunk
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}
