package nix

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"
)

// A Hash is a SHA-256, the only hash that binary caches use for NARs and
// files. It is comparable; the zero value is none.
type Hash [sha256.Size]byte

// ParseHash parses sha256:<nix32>, sha256:<hex>, sha256:<base64> or
// sha256-<base64>, which different versions of Nix write for the same hash.
func ParseHash(s string) (Hash, error) {
	h, err := nixhash.ParseAny(s, nil)
	if err != nil || h.Algo() != nixhash.SHA256 || len(h.Digest()) != sha256.Size {
		return Hash{}, fmt.Errorf("%q is not a SHA-256 in a form that Nix writes (sha256:…)", s)
	}
	return Hash(h.Digest()), nil
}

// SumHash returns the hash of what was written to h, a SHA-256.
func SumHash(h hash.Hash) Hash { return Hash(h.Sum(nil)) }

// String is sha256:<nix32>, as narinfos have it.
func (h Hash) String() string { return "sha256:" + h.Nix32() }

// Nix32 is the hash alone, in Nix's base 32.
func (h Hash) Nix32() string { return nixbase32.EncodeToString(h[:]) }

// Hex is the hash alone in base 16, as in a store's database.
func (h Hash) Hex() string { return hex.EncodeToString(h[:]) }

// IsZero says whether h is no hash at all.
func (h Hash) IsZero() bool { return h == Hash{} }

// NixHash is the hash as go-nix has it.
func (h Hash) NixHash() *nixhash.HashWithEncoding {
	return nixhash.MustNewHashWithEncoding(nixhash.SHA256, h[:], nixhash.NixBase32, true)
}

// MarshalText writes sha256:<nix32>.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what ParseHash reads.
func (h *Hash) UnmarshalText(text []byte) error {
	parsed, err := ParseHash(string(text))
	if err != nil {
		return err
	}
	*h = parsed
	return nil
}
