package pointer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Origin is what a promotion says of g, a generation of the pointer of that
// name. It fails unless one of keys has signed g.
func (g Generation) Origin(name Name, keys nix.Keys) (*Origin, error) {
	for _, signature := range g.Signatures {
		if keys.Verify(g.line(name), Signatures{signature}) {
			return &Origin{name, g.Number, signature.String()}, nil
		}
	}
	return nil, hint.With(fmt.Errorf("generation %d of %s, as it is there, is not signed by an accepted key (%s)", g.Number, name, keys.Names()),
		"it was changed, or is signed by a key that isn't known here: name that in %s", hint.Term("from.pointer_public_keys"))
}

// An OlderError says that a promotion was refused because it would undo one of
// a later generation of the same pointer.
type OlderError struct {
	Origin     Name
	Want, Last uint64 // the generation to promote, and the one that was promoted last
}

func (e *OlderError) Error() string {
	return fmt.Sprintf("generation %d of %s was promoted already, and %d is older", e.Last, e.Origin, e.Want)
}

// An OvertakenError says that a promotion was refused because somebody else has
// moved the pointer since the work on what would be promoted began.
type OvertakenError struct {
	Origin     Name
	Generation uint64    // of the origin: the one to promote
	Started    time.Time // when the work on it began

	By   uint64    // the generation of the pointer that was made since
	Made time.Time // when
	Why  string    // as far as it tells
}

func (e *OvertakenError) Error() string {
	why := ""
	if e.Why != "" {
		why = " (" + e.Why + ")"
	}
	return fmt.Sprintf("generation %d%s was made at %s, after the work on generation %d of %s had begun at %s",
		e.By, why, e.Made.UTC().Format(time.RFC3339), e.Generation, e.Origin, e.Started.UTC().Format(time.RFC3339))
}

// checkOrigin returns an error if the proposal is a promotion that would undo
// what was decided later.
//
// Promotions of one pointer follow one another by its numbers. Promotions of
// others, puts and rollbacks have no numbers to compare with, so there it is a
// matter of time: a promotion may follow only those that were there when the work
// on it began, for it was built and tested without the later ones.
//
// What the history doesn't hold any more doesn't count.
func (p *Pointer) checkOrigin(history *History, proposal Proposal) error {
	origin := proposal.Details.Origin
	if origin == nil || proposal.AllowOlder {
		return nil
	}
	promoted := make([]uint64, len(history.Generations)) // from which generation of the same pointer; 0 for all else
	for i, g := range history.Generations {
		if from, ok := p.promotedFrom(history, g); ok && from.Pointer == origin.Pointer {
			promoted[i] = from.Generation
		}
	}
	if last := cmp.Or(promoted...); last > origin.Generation {
		return hint.With(fmt.Errorf("%s stays where it is: %w", p, &OlderError{origin.Pointer, origin.Generation, last}),
			"a slow job must not undo a newer one; to go back on purpose, promote with %s", hint.Term("allow_older: true"))
	}
	n := stepsForward(promoted)
	if n == len(promoted) || history.Generations[n].Created <= proposal.Details.Started {
		return nil
	}
	by := history.Generations[n]
	err := &OvertakenError{
		Origin: origin.Pointer, Generation: origin.Generation, Started: time.Unix(proposal.Details.Started, 0),
		By: by.Number, Made: time.Unix(by.Created, 0),
	}
	err.Why, _, _ = strings.Cut(by.Details.Message, "\n")
	if from, ok := p.promotedFrom(history, by); ok {
		err.Why = fmt.Sprintf("promoted from generation %d of %s", from.Generation, from.Pointer)
	}
	return hint.With(fmt.Errorf("%s stays where it is: %w", p, err),
		"put what it was moved for into the sources, and build and test them again; to overrule it, promote with %s", hint.Term("allow_older: true"))
}

// stepsForward returns how many of the newest generations were promoted from
// generations of one pointer without going back in these.
func stepsForward(promoted []uint64) int {
	for i, number := range promoted {
		if number == 0 || number < cmp.Or(promoted[i+1:]...) {
			return i
		}
	}
	return len(promoted)
}

// promotedFrom returns the origin of g, one of the history, if it was promoted.
func (p *Pointer) promotedFrom(history *History, g Generation) (*Origin, bool) {
	_, back := p.WentBack(history, g)
	return g.Details.Origin, g.Details.Origin != nil && !back
}

// WentBack returns the generation that g, one of the history, went back to, if
// it is a rollback. A promotion from a pointer of the same name in another cache
// is none.
func (p *Pointer) WentBack(history *History, g Generation) (number uint64, ok bool) {
	origin := g.Details.Origin
	if origin == nil || origin.Pointer != p.config.Name || origin.Generation >= g.Number {
		return 0, false
	}
	for _, old := range history.Generations {
		if old.Number == origin.Generation && (old.Path != g.Path || !old.carries(origin.Signature)) {
			return 0, false
		}
	}
	return origin.Generation, true
}

// carries says whether a signature is one of g's. None at all always is.
func (g Generation) carries(signature string) bool {
	return signature == "" || slices.ContainsFunc(g.Signatures, func(s nix.Signature) bool { return s.String() == signature })
}

// Preview returns the error that Append would return now, as far as that can
// be told without writing.
func (p *Pointer) Preview(ctx context.Context, proposal Proposal) error {
	if err := p.Writable(); err != nil {
		return err
	}
	history, err := p.readForWriting(ctx, proposal.Seen)
	if err != nil {
		return err
	}
	_, _, err = p.plan(history, proposal)
	return err
}
