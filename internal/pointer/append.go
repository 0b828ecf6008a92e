package pointer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// An Outcome is what an Append came to.
type Outcome struct {
	Generation Generation // that of the proposal
	Moved      bool       // it is new; otherwise it was the newest already
	Renewed    bool       // it was the newest already, and expires later now
	Signed     int        // how many signatures were added to generations that were there

	// Replaced is the generation before a new one that is no promotion, if it was
	// made after the work on that began: its maker may not have meant it to be replaced.
	Replaced *Generation
}

// A MovedError says that a proposal was refused because of its IfGeneration.
type MovedError struct {
	Want, Got uint64 // the newest generation's number; 0 for none
}

func (e *MovedError) Error() string {
	return fmt.Sprintf("the newest generation is %d, not %d", e.Got, e.Want)
}

// An OverwrittenError says that the store took a generation, and that another
// writer's was then in its place: the store's conditional writes are not atomic, or
// the other writer makes none.
type OverwrittenError struct{ Number uint64 }

func (e *OverwrittenError) Error() string {
	return fmt.Sprintf("another writer has overwritten generation %d", e.Number)
}

// Append makes the proposal the pointer's newest generation, unless that
// already has its path and hash: then nothing moves, whatever IfGeneration
// says, and if less than half of ExpiresAfter is left, its expiry is renewed.
//
// Either way, generations that are signed by an accepted key get those
// signatures of SigningKeys that they lack, and the plain-text copy is right
// when Append returns.
//
// If another writer overwrites the generation, Append makes it again, with the next
// number; an error of that then also wraps an [*OverwrittenError].
//
// An error that wraps a [*MovedError], an [*OlderError] or an [*OvertakenError] says
// that nothing was changed. After any other, the proposal may have become a generation
// or not;
// appending it again is right in both cases.
func (p *Pointer) Append(ctx context.Context, proposal Proposal) (Outcome, error) {
	if err := p.Writable(); err != nil {
		return Outcome{}, err
	}
	proposal.Details.Run = rand.Text()
	var lost error // what became of the generation before
	for tries := 1; ; tries++ {
		outcome, err := p.appendOnce(ctx, proposal)
		if err == nil {
			return outcome, nil
		}
		var overwritten *OverwrittenError
		again := errors.As(err, &overwritten) && !p.config.SingleWriter && tries < maxTries
		switch {
		case again:
			lost, proposal.Seen = overwritten, nil
		case lost != nil:
			return Outcome{}, fmt.Errorf("%w: %w", lost, err)
		default:
			return Outcome{}, err
		}
	}
}

// appendOnce is Append without a second try.
func (p *Pointer) appendOnce(ctx context.Context, proposal Proposal) (Outcome, error) {
	outcome, history, step, err := p.swap(ctx, proposal)
	if err != nil {
		return Outcome{}, err
	}
	var meanwhile sync.WaitGroup
	defer meanwhile.Wait()
	if outcome.Moved && proposal.Meanwhile != nil {
		meanwhile.Go(func() { proposal.Meanwhile(ctx, outcome.Generation) })
	}
	history, err = p.settle(ctx, history, step)
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
// a write there is none yet, but the step that the copy has to take.
func (p *Pointer) swap(ctx context.Context, proposal Proposal) (Outcome, *History, plainStep, error) {
	var failure error // of the last write
	var etag string   // of what it should have replaced
	for tries, seen := 0, proposal.Seen; ; seen = nil {
		history, err := p.readForWriting(ctx, seen)
		if err != nil && failure != nil {
			err = fmt.Errorf("%w; then, looking whether it was written: %w", failure, err)
		}
		if err != nil {
			return Outcome{}, nil, plainStep{}, err
		}
		if g, ok := history.madeBy(proposal.Details.Run); ok {
			return Outcome{Generation: g, Moved: true}, history, plainStep{}, nil // the write failed only to answer
		}
		if failure != nil {
			if err := p.again(ctx, &tries, failure, history.etag != etag); err != nil {
				return Outcome{}, nil, plainStep{}, err
			}
		}
		entries, outcome, err := p.plan(history, proposal)
		if err != nil {
			return Outcome{}, nil, plainStep{}, err
		}
		if entries == nil && history == seen && proposal.SeenLongAgo {
			continue
		}
		if entries == nil {
			if seen := proposal.Seen; seen != nil && history.etag == seen.etag && history.etag != "" {
				history.copy = seen.copy // as it was when the two agreed
			}
			return outcome, history, plainStep{copy: history.copy}, nil
		}
		if failure = p.replace(ctx, history, entries); failure == nil {
			return outcome, nil, plainStep{history.plain(), outcome.Generation.plain(), history.copy}, nil
		}
		etag = history.etag
	}
}

// readForWriting reads the history, unless it was seen and a write over another
// would fail. It refuses to begin one where there must have been one: numbers
// would begin again, too.
func (p *Pointer) readForWriting(ctx context.Context, seen *History) (*History, error) {
	if seen != nil && len(seen.entries) > 0 && !p.config.SingleWriter {
		return seen, nil
	}
	history, err := p.Read(ctx)
	if err != nil || len(history.entries) > 0 {
		return history, err
	}
	plain, err := p.readPlain(ctx)
	if err != nil {
		return nil, err
	}
	left := "only its plain-text copy is left"
	if !plain.exists {
		if seen != nil && seen.copy != nil { // Look has looked for the rest
			return history, nil
		}
		left = "generations that had left it are still there"
		if kept, err := p.hasKept(ctx); err != nil || !kept {
			return history, err
		}
	}
	history, err = p.Read(ctx) // again: it may have come since
	if err == nil && len(history.entries) == 0 {
		return nil, p.gone(left)
	}
	return history, err
}

// hasKept says whether there are generations that have left the history, as far as
// the store lets us look.
func (p *Pointer) hasKept(ctx context.Context) (bool, error) {
	if !p.store.Capabilities().List {
		return false, nil
	}
	for _, err := range p.store.List(ctx, p.config.Name.keptPrefix()) {
		if errors.Is(err, blob.ErrPermission) {
			return false, nil
		}
		return err == nil, err
	}
	return false, nil
}

// gone is the error of a pointer whose history was deleted, but not all that belongs
// to it: to begin again would begin its numbers again, too.
func (p *Pointer) gone(left string) error {
	return hint.With(fmt.Errorf("the history of %s is gone, and %s", p, left),
		"put %s back; or, to begin again at generation 1 (which its hosts and Concourse will take for an old one), delete %[2]s and %[2]s.d as well",
		p.config.Name.historyKey(), p.config.Name.plainKey())
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
			"look at what it has moved to, and %s without %s or with the new number", hint.Term("put again"), hint.Term("if_generation"))
	default:
		if err := p.checkOrigin(history, proposal); err != nil {
			return nil, Outcome{}, err
		}
		fresh, err := p.generation(newest.Number+1, proposal)
		if err != nil {
			return nil, Outcome{}, err
		}
		entries = slices.Insert(entries, 0, fresh)
		outcome.Moved = true
		started := fresh.Details.Started
		if exists && fresh.Details.Origin == nil && started > 0 && newest.Created > started {
			outcome.Replaced = &newest
		}
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
