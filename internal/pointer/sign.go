package pointer

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// line is the text that a generation's signatures sign:
//
//	nixos-closure-pointer;1;<pointer>;<generation>;<system>;<store path>;sha256:<nix32>;<created>;<expires>;<sha256, hex, of details>
//
// No field can hold a semicolon, so that no two generations share a line, and
// its beginning keeps it apart from the fingerprint of a path, which the same
// key may sign.
func (g Generation) line(name Name) string {
	return fmt.Sprintf("nixos-closure-pointer;1;%s;%d;%s;%s;%s;%d;%d;%x",
		name, g.Number, g.System, g.Path, g.NarHash, g.Created, g.Expires, sha256.Sum256([]byte(g.Details.text)))
}

// Verify says whether one of keys has signed g as a generation of the pointer
// of that name.
func (g Generation) Verify(name Name, keys nix.Keys) bool {
	return keys.Verify(g.line(name), g.Signatures)
}

// signed returns g with the signatures of those of keys that have not signed
// it yet, and how many these were.
func (g Generation) signed(name Name, keys []nix.SecretKey) (Generation, int) {
	g.Signatures = slices.Clone(g.Signatures)
	added := 0
	for _, key := range keys {
		if !g.Verify(name, nix.Keys{key.Public()}) {
			g.Signatures = append(g.Signatures, key.Sign(g.line(name)))
			added++
		}
	}
	return g, added
}
