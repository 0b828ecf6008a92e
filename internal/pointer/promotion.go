package pointer

import (
	"context"
	"fmt"

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
		"it was changed, or is signed by a key that this source doesn't know: name that in from.pointer_public_keys")
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

// checkOrigin returns an error if the proposal is an older one than was
// promoted before. What the history doesn't hold any more doesn't count.
func (p *Pointer) checkOrigin(history *History, proposal Proposal) error {
	origin := proposal.Details.Origin
	if origin == nil || proposal.AllowOlder {
		return nil
	}
	for _, g := range history.Generations {
		last := g.Details.Origin
		if last == nil || last.Pointer != origin.Pointer {
			continue
		}
		if last.Generation <= origin.Generation {
			return nil
		}
		return hint.With(fmt.Errorf("%s stays where it is: %w", p, &OlderError{origin.Pointer, origin.Generation, last.Generation}),
			"a slow job must not undo a newer one; to go back on purpose, promote with %s", hint.Term("allow_older: true"))
	}
	return nil
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
