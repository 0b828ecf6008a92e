package pointer

import (
	"context"
	"fmt"

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

	// AllowOlder lets a promotion follow one of a later generation of the same
	// pointer, and what somebody else has decided since the work on it began.
	AllowOlder bool

	// Seen, unless nil, is the history as Read or Look has found it. Append then
	// doesn't read it first, and reads it again if it finds it changed. Where there
	// is nothing to write, it takes its word for that, unless that was SeenLongAgo.
	Seen        *History
	SeenLongAgo bool

	// Meanwhile, unless nil, is called once the generation is visible, if it is
	// a new one, while Append sees to the copy. Append waits until it returns.
	Meanwhile func(context.Context, Generation)
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
