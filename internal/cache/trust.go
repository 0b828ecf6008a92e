package cache

import (
	"errors"
	"fmt"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// ErrUntrusted says that a path is in the cache, but that nobody who is trusted
// vouches for it.
var ErrUntrusted = errors.New("no signature by a trusted key")

// acceptable returns nil if the narinfo may be believed: it is signed by a
// trusted key, or it is content-addressed and its store path follows from its
// content address. (In the latter case openNAR checks the content against the
// address.) Otherwise the error wraps ErrUntrusted.
func (c *Cache) acceptable(ni *NarInfo) error {
	if !c.config.RequireSigs || ni.SignedBy(c.config.PublicKeys) {
		return nil
	}
	if !ni.CA.IsZero() {
		if err := ni.CheckContentAddress(); err != nil {
			return fmt.Errorf("%w, and its content address doesn't make up for that: %w", ErrUntrusted, err)
		}
		return nil
	}
	if len(ni.Signatures) == 0 {
		return fmt.Errorf("%w: it isn't signed at all", ErrUntrusted)
	}
	for _, sig := range ni.Signatures {
		for _, key := range c.config.PublicKeys {
			if key.Name() == sig.Name {
				return fmt.Errorf("%w: its signature by %s doesn't match", ErrUntrusted, sig.Name)
			}
		}
	}
	return fmt.Errorf("%w: it is signed by %s", ErrUntrusted, signers(ni.Signatures))
}

// refuse words an error of acceptable for a person.
func (c *Cache) refuse(ni *NarInfo, err error) error {
	return hint.With(fmt.Errorf("%s in %s: %w (trusted: %s)", ni.Path, c, err, c.config.PublicKeys.Names()),
		"add the key of whoever pushed it to trusted_public_keys, or have a builder whose key is trusted push it again")
}

func signers(sigs []nix.Signature) string {
	s := ""
	for i, sig := range sigs {
		if i > 0 {
			s += ", "
		}
		s += sig.Name
	}
	return s
}
