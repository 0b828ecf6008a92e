package pointer

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Proposal is what a pointer should have as its newest generation.
type Proposal struct {
	Path    nix.StorePath
	System  string   // x86_64-linux
	NarHash nix.Hash // of Path, as the cache has it
	Details Details  // all but Run

	// IfGeneration, unless nil, is the number that the newest generation must
	// have for the pointer to move; 0 is that of a pointer without generations.
	IfGeneration *uint64
}

// An Outcome is what an Append came to.
type Outcome struct {
	Generation Generation // that of the proposal
	Moved      bool       // it is new; otherwise it was the newest already
	Renewed    bool       // it was the newest already, and expires later now
	Signed     int        // how many signatures were added to generations that were there
}

// A MovedError says that a proposal was refused because of its IfGeneration.
type MovedError struct {
	Want, Got uint64 // the newest generation's number; 0 for none
}

func (e *MovedError) Error() string {
	return fmt.Sprintf("the newest generation is %d, not %d", e.Got, e.Want)
}

// Append makes the proposal the pointer's newest generation, unless that
// already has its path and hash: then nothing moves, whatever IfGeneration
// says, and if less than half of ExpiresAfter is left, its expiry is renewed.
//
// Either way, generations that are signed by an accepted key get those
// signatures of SigningKeys that they lack, and the plain-text copy is right
// when Append returns.
//
// An error that wraps a [*MovedError] says that nothing was changed. After any
// other, the proposal may have become a generation or not; appending it again
// is right in both cases.
func (p *Pointer) Append(ctx context.Context, proposal Proposal) (Outcome, error) {
	if err := p.Writable(); err != nil {
		return Outcome{}, err
	}
	proposal.Details.Run = rand.Text()
	outcome, history, err := p.swap(ctx, proposal)
	if err != nil {
		return Outcome{}, err
	}
	history, err = p.settle(ctx, history)
	if err == nil && outcome.Moved {
		err = p.confirm(ctx, history, outcome.Generation)
	}
	if err != nil {
		return Outcome{}, fmt.Errorf("generation %d of %s: %w", outcome.Generation.Number, p, err)
	}
	return outcome, nil
}

// swap reads the history and writes what the proposal makes of it until nobody
// comes between the two. It also returns the history that it found right; after
// a write there is none yet.
func (p *Pointer) swap(ctx context.Context, proposal Proposal) (Outcome, *History, error) {
	var failure error // of the last write
	var etag string   // of what it should have replaced
	for tries := 0; ; {
		history, err := p.readForWriting(ctx)
		if err != nil {
			return Outcome{}, nil, errors.Join(failure, err)
		}
		if g, ok := history.madeBy(proposal.Details.Run); ok {
			return Outcome{Generation: g, Moved: true}, history, nil // the write failed only to answer
		}
		if failure != nil {
			if err := p.again(ctx, &tries, failure, history.etag != etag); err != nil {
				return Outcome{}, nil, err
			}
		}
		entries, outcome, err := p.plan(history, proposal)
		if err != nil {
			return Outcome{}, nil, err
		}
		if entries == nil {
			return outcome, history, nil
		}
		if failure = p.replace(ctx, history, entries); failure == nil {
			return outcome, nil, nil
		}
		etag = history.etag
	}
}

// readForWriting reads the history, and refuses to begin one where there must
// have been one: numbers would begin again, too.
func (p *Pointer) readForWriting(ctx context.Context) (*History, error) {
	history, err := p.Read(ctx)
	if err != nil || len(history.entries) > 0 {
		return history, err
	}
	plain, err := p.readPlain(ctx)
	if err != nil || !plain.exists {
		return history, err
	}
	history, err = p.Read(ctx) // again: the copy may have come since
	if err == nil && len(history.entries) == 0 {
		return nil, hint.With(fmt.Errorf("the history of %s is gone, and only its plain-text copy is left", p),
			"put %s back; or, to begin again at generation 1 (which its hosts and Concourse will take for an old one), delete %[2]s and %[2]s.d as well",
			p.config.Name.historyKey(), p.config.Name.plainKey())
	}
	return history, err
}

// plan returns what the proposal makes of a history's entries: nil if they
// stay as they are.
func (p *Pointer) plan(history *History, proposal Proposal) ([]Generation, Outcome, error) {
	entries := slices.Clone(history.entries)
	var outcome Outcome
	newest, exists := history.Newest()
	switch {
	case exists && newest.Path == proposal.Path && newest.NarHash == proposal.NarHash:
		if p.renewable(newest) {
			newest.Expires = p.expires()
			newest.Signatures = nil
			entries[0], _ = newest.signed(p.config.Name, p.config.SigningKeys)
			outcome.Renewed = true
		}
	case proposal.IfGeneration != nil && *proposal.IfGeneration != newest.Number:
		return nil, Outcome{}, hint.With(fmt.Errorf("%s has moved: %w", p, &MovedError{*proposal.IfGeneration, newest.Number}),
			"look at what it has moved to, and put again without if_generation or with the new number")
	default:
		fresh, err := p.generation(newest.Number+1, proposal)
		if err != nil {
			return nil, Outcome{}, err
		}
		entries = slices.Insert(entries, 0, fresh)
		outcome.Moved = true
	}
	for i, g := range entries {
		// The newest is ours by now: its path and hash are those proposed.
		if i > 0 && !g.Verify(p.config.Name, p.config.PublicKeys) {
			continue
		}
		g, added := g.signed(p.config.Name, p.config.SigningKeys)
		if _, err := g.encode(MaxEntry); err == nil {
			entries[i] = g
			outcome.Signed += added
		}
	}
	outcome.Generation = entries[0]
	if !outcome.Moved && !outcome.Renewed && outcome.Signed == 0 {
		entries = nil
	}
	return entries, outcome, nil
}

// signatureRoom is how many bytes of an entry a new one leaves to the
// signatures of keys to come.
const signatureRoom = 1 << 10

// generation makes a proposal a generation.
func (p *Pointer) generation(number uint64, proposal Proposal) (Generation, error) {
	if size := len(proposal.Details.Message); size > MaxMessage {
		return Generation{}, hint.With(fmt.Errorf("the message has %d bytes, and may have %d", size, MaxMessage), "shorten the message")
	}
	details, err := proposal.Details.signable()
	if err != nil {
		return Generation{}, err
	}
	g := Generation{
		Number:  number,
		Path:    proposal.Path,
		System:  proposal.System,
		NarHash: proposal.NarHash,
		Created: p.config.Now().Unix(),
		Expires: p.expires(),
		Details: details,
	}
	if err := g.check(); err != nil {
		return Generation{}, fmt.Errorf("generation %d of %s can't be made: %w", number, p, err)
	}
	g, _ = g.signed(p.config.Name, p.config.SigningKeys)
	if _, err := g.encode(MaxEntry - signatureRoom); err != nil {
		return Generation{}, hint.With(fmt.Errorf("%w: its details have %d bytes, %d of which are the message", err, len(details.text), len(details.Message)),
			"shorten the message; provenance: minimal leaves out where it was built")
	}
	return g, nil
}

// expires is when a generation expires that is written now.
func (p *Pointer) expires() int64 {
	if p.config.ExpiresAfter == 0 {
		return 0
	}
	return p.config.Now().Add(p.config.ExpiresAfter).Unix()
}

// renewable says whether g expires too soon, or should not expire any more.
func (p *Pointer) renewable(g Generation) bool {
	if p.config.ExpiresAfter == 0 {
		return g.Expires != 0
	}
	return time.Unix(g.Expires, 0).Sub(p.config.Now()) < p.config.ExpiresAfter/2
}

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

// confirm returns an error unless g, which the store took, is still there.
func (p *Pointer) confirm(ctx context.Context, history *History, g Generation) error {
	found, err := p.find(ctx, history, g.Number)
	if err == nil && found.Details.Run == g.Details.Run {
		return nil
	}
	if err == nil || errors.Is(err, ErrGone) {
		err = errors.New("another writer has overwritten it")
	}
	return hint.With(fmt.Errorf("it was written, and can't be read back: %w", err),
		"either the store does not honour conditional writes, or a writer with conditional_writes: false is not the only one; put again once there is only one writer")
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
	case <-time.After(pause/2 + mathrand.N(pause/2)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
