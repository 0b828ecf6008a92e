// Package pointer keeps the answer to "which closure should web-1 run?": a
// named, signed sequence of generations beside a binary cache.
//
// A pointer is one object, pointers/<name>.json, which holds its newest
// generations. A generation that leaves it is kept under its number, and a
// plain-text copy of the newest path lies beside it for those who have only
// curl. docs/formats.md specifies all three. Everything is read and written
// through a [blob.Store]; what a store path holds is no business of this
// package, nor whether its closure is in the cache: who appends a generation
// has seen to that.
//
// # What a reader is promised
//
// Nothing is believed before it is verified. The line that is signed names the
// pointer, the number, the system, the path with its hash, the times and the
// details; so whoever can write to the bucket, but has no key, can't make up a
// generation, renumber or reorder them, or pass off those of one pointer as
// another's. What such a person can do is to serve an older history that was
// once true, or none: a single object can't tell. A reader that remembers a
// number notices ([Proposal.IfGeneration] does so for writers), and Expires
// bounds how long it can go on.
//
// No read goes beyond MaxObject bytes. [Pointer.Read] is one request.
//
// # What a writer is promised
//
// Numbers only grow, and no two writers get the same one. [Pointer.Append]
// replaces the object on the condition that it is still the one that was read;
// if not, it begins again with what the other writer left. For stores without
// such conditions there is Config.SingleWriter, by which the user gives their
// word instead.
//
// Append may be killed at any instant, and repeated: what it writes first (a
// generation kept under its number) changes nothing that is visible, what it
// writes second is the generation, whole, and what it writes last is the copy,
// which the next Append mends. The same path twice is one generation. A write
// whose answer was lost is looked for, by the random id of the run in its
// details, before anything is concluded.
package pointer

import (
	"errors"
	"fmt"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Config says which pointer is meant, whom its readers believe and how its
// writer writes.
type Config struct {
	Name         Name
	PublicKeys   nix.Keys        // one of them must have signed what is read
	RequireSigs  bool            // if false, signatures are not asked for
	SigningKeys  []nix.SecretKey // each signs what is appended
	ExpiresAfter time.Duration   // of a generation that is appended or renewed; 0 is never
	SingleWriter bool            // don't write conditionally: nobody else writes to this pointer
	Now          func() time.Time
}

// A Pointer is one in a store. Its methods may be called from several
// goroutines.
type Pointer struct {
	store  blob.Store
	config Config
	pause  time.Duration // before the second of several writes that fail in a row
}

// New returns the pointer that config names in store. It makes no request.
// Without Config.Now, it goes by the system's clock.
func New(store blob.Store, config Config) *Pointer {
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Pointer{store, config, 20 * time.Millisecond}
}

// Name is what the pointer is called.
func (p *Pointer) Name() Name { return p.config.Name }

// String names the pointer and where it is, for messages.
func (p *Pointer) String() string { return fmt.Sprintf("pointer %s in %s", p.config.Name, p.store) }

// readable returns an error if nothing could be accepted.
func (p *Pointer) readable() error {
	if p.config.RequireSigs && len(p.config.PublicKeys) == 0 {
		return hint.With(fmt.Errorf("no key is accepted for %s", p),
			"set trusted_public_keys or pointer_public_keys to the public half of the key that signs it")
	}
	return nil
}

// Writable returns an error if Append would refuse any proposal: because what it
// writes could not be read back, or not be written safely. It makes no request.
func (p *Pointer) Writable() error {
	if p.config.RequireSigs && len(p.config.SigningKeys) == 0 {
		return hint.With(fmt.Errorf("there is no key to sign %s with", p),
			"set signing_key or pointer_signing_key to a secret key (nix-store --generate-binary-cache-key makes one), or write down require_sigs: false")
	}
	if err := p.readable(); err != nil {
		return err
	}
	for _, key := range p.config.SigningKeys {
		// A signature of number 0, which is nobody's, is of no use elsewhere.
		probe, _ := Generation{}.signed(p.config.Name, []nix.SecretKey{key})
		if p.config.RequireSigs && !probe.Verify(p.config.Name, p.config.PublicKeys) {
			return hint.With(fmt.Errorf("what the key %s signs could not be read back from %s, which accepts %s", key.Name(), p, p.config.PublicKeys.Names()),
				"add its public half to pointer_public_keys; if a key of that name is there already, one of the two is not what it should be")
		}
	}
	switch can := p.store.Capabilities(); {
	case !can.Write:
		return hint.With(fmt.Errorf("%s can't be moved: %w", p, blob.ErrReadOnly),
			"http and https caches are for reading; write to the bucket or directory behind them")
	case !can.Conditional && !p.config.SingleWriter:
		return hint.With(fmt.Errorf("%s can't be moved safely: the store has no conditional writes, so two writers could get the same number: %w", p, errors.ErrUnsupported),
			"if nothing else ever writes to this pointer, say so by conditional_writes: false")
	}
	return nil
}
