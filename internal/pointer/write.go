package pointer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// replace writes entries in the place of history, having kept those that leave
// it.
func (p *Pointer) replace(ctx context.Context, history *History, entries []Generation) error {
	for len(entries) > Keep {
		last := len(entries) - 1
		if err := p.keep(ctx, entries[last]); err != nil {
			return err
		}
		entries = entries[:last]
	}
	data, err := encodeHistory(p.config.Name, entries)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	options := p.onlyIf(len(history.entries) > 0, history.etag)
	if history.etag == "" && !options.IfAbsent && !p.config.SingleWriter {
		return hint.With(fmt.Errorf("%s can't be moved safely: the store doesn't tell versions of %s apart", p, p.config.Name.historyKey()),
			"if nothing else ever writes to this pointer, say so by conditional_writes: false")
	}
	options.ContentType, options.CacheControl = "application/json", "no-cache"
	_, err = p.store.Put(ctx, p.config.Name.historyKey(), bytes.NewReader(data), options)
	return err
}

// keep writes a generation that leaves the history as an object of its own.
func (p *Pointer) keep(ctx context.Context, g Generation) error {
	data, err := g.encode(MaxEntry)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	options := p.onlyIf(false, "")
	options.ContentType, options.CacheControl = "application/json", "public, max-age=31536000, immutable"
	key := p.config.Name.numberedKey(g.Number)
	if _, err = p.store.Put(ctx, key, bytes.NewReader(data), options); err == nil {
		return nil
	}
	// It may be there all the same: kept by another writer, by a run that was
	// killed, or just now, and only the answer was lost.
	kept, readErr := p.readKept(ctx, g.Number)
	switch {
	case readErr == nil && kept.line(p.config.Name) == g.line(p.config.Name):
		return nil
	case !errors.Is(err, blob.ErrPrecondition):
		return err
	case readErr == nil:
		return p.malformed(key, fmt.Errorf("generation %d is another one in the history", g.Number))
	default:
		return readErr
	}
}

// onlyIf returns the condition that an object is as it was read: absent, or of
// that version.
func (p *Pointer) onlyIf(exists bool, etag string) blob.PutOptions {
	switch {
	case p.config.SingleWriter:
		return blob.PutOptions{}
	case exists:
		return blob.PutOptions{IfMatch: etag}
	default:
		return blob.PutOptions{IfAbsent: true}
	}
}

// confirm returns an error unless g, which the store took, is still there: an
// [*OverwrittenError], if another writer's is.
func (p *Pointer) confirm(ctx context.Context, history *History, g Generation) error {
	found, err := p.FindIn(ctx, history, g.Number)
	if err == nil && found.Details.Run == g.Details.Run {
		return nil
	}
	if err == nil || errors.Is(err, ErrGone) {
		err = &OverwrittenError{g.Number}
	}
	return hint.With(fmt.Errorf("it was written, and can't be read back: %w", err),
		"either the store does not honour conditional writes, or a writer with conditional_writes: false is not the only one; %s once there is only one writer", hint.Term("put again"))
}

// maxTries bounds how often a conditional write is repeated that is refused
// although nothing has changed. Stores do so while another's write is under way.
const maxTries = 8

// again returns nil if a write that failed should be tried again, after having
// waited if need be. That it failed because somebody else was faster shows in
// what was to be replaced having changed.
func (p *Pointer) again(ctx context.Context, tries *int, failure error, changed bool) error {
	if changed {
		*tries = 0
		return nil
	}
	if !errors.Is(failure, blob.ErrPrecondition) {
		return failure
	}
	if *tries++; *tries == maxTries {
		return hint.With(fmt.Errorf("%w, says the store %d times, but nothing has changed", failure, maxTries),
			"the store's conditional writes don't work: if nothing else writes to this pointer, say so by conditional_writes: false")
	}
	pause := p.pause << *tries
	select {
	case <-time.After(pause/2 + rand.N(pause/2)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
