package nix

import (
	"fmt"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/storepath"
)

// StoreDir is the directory of every store that this project knows. (A store
// elsewhere has other hashes and can't share a cache with it.)
const StoreDir = storepath.StoreDir

const (
	hashLen    = 32  // of the hash part, in nix32
	maxNameLen = 211 // Nix's limit
)

// A StorePath names an object of the Nix store, such as
// /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60. It is comparable;
// the zero value is no path.
type StorePath struct {
	base string // hash-name; valid, or empty
}

// ParseStorePath parses a whole store path, /nix/store/<hash>-<name>. Paths
// below one (/nix/store/<hash>-<name>/bin) are an error.
func ParseStorePath(s string) (StorePath, error) {
	base, ok := strings.CutPrefix(s, StoreDir+"/")
	if !ok {
		return StorePath{}, fmt.Errorf("%q is not a store path: it is not in %s", s, StoreDir)
	}
	return ParseBaseName(base)
}

// ParseBaseName parses a store path as narinfos write references: <hash>-<name>.
func ParseBaseName(base string) (StorePath, error) {
	fail := func(why string) (StorePath, error) {
		return StorePath{}, fmt.Errorf("%q is not a store path: %s", base, why)
	}
	if len(base) < hashLen+2 || base[hashLen] != '-' {
		return fail("want 32 characters of hash, a dash and a name")
	}
	if err := ValidateHashPart(base[:hashLen]); err != nil {
		return fail(err.Error())
	}
	name := base[hashLen+1:]
	if len(name) > maxNameLen {
		return fail(fmt.Sprintf("its name is longer than %d characters", maxNameLen))
	}
	if name == "." || name == ".." || strings.HasPrefix(name, ".-") || strings.HasPrefix(name, "..-") {
		return fail("its name must not start with . or .. alone or before a dash")
	}
	// go-nix checks the characters; the rest it lets through is refused above.
	if err := storepath.Validate(StoreDir + "/" + base); err != nil {
		return fail("letters, digits and +-._?= are what a name may have")
	}
	return StorePath{base}, nil
}

// ValidateHashPart returns an error unless s is the hash part of a store path,
// as in <hash>.narinfo.
func ValidateHashPart(s string) error {
	if len(s) != hashLen {
		return fmt.Errorf("its hash has %d characters, want %d", len(s), hashLen)
	}
	if err := nixbase32.ValidateString(s); err != nil {
		return fmt.Errorf("its hash is not in nix32 (%s)", nixbase32.Alphabet)
	}
	return nil
}

// String is the whole path, /nix/store/<hash>-<name>; of the zero value, "".
func (p StorePath) String() string {
	if p.IsZero() {
		return ""
	}
	return StoreDir + "/" + p.base
}

// Base is the path without its directory: <hash>-<name>.
func (p StorePath) Base() string { return p.base }

// HashPart is the 32 characters of hash that name the path's narinfo.
func (p StorePath) HashPart() string {
	if p.IsZero() {
		return ""
	}
	return p.base[:hashLen]
}

// Name is the path without directory and hash.
func (p StorePath) Name() string {
	if p.IsZero() {
		return ""
	}
	return p.base[hashLen+1:]
}

// IsZero says whether p is no path at all.
func (p StorePath) IsZero() bool { return p.base == "" }

// Compare orders paths as Nix does: by their bytes.
func (p StorePath) Compare(q StorePath) int { return strings.Compare(p.base, q.base) }

// MarshalText writes the whole path.
func (p StorePath) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a whole path.
func (p *StorePath) UnmarshalText(text []byte) error {
	parsed, err := ParseStorePath(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}
