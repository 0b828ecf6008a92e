package nix

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/nix-community/go-nix/pkg/nixhash"

	_ "crypto/md5" // what content addresses may use
	_ "crypto/sha1"
	_ "crypto/sha512"
)

// A ContentAddress says by what a path's content determines its name (Nix,
// src/libstore/content-address.cc):
//
//	text:sha256:<hash>      a file, by its content; may refer to other paths
//	fixed:<algo>:<hash>     a file that isn't executable, by its content
//	fixed:r:<algo>:<hash>   any tree, by its NAR
//	fixed:git:<algo>:<hash> any tree, as git hashes it; that can't be recomputed here
//
// The zero ContentAddress is none. It is comparable, and what it prints holds
// nothing but the above.
type ContentAddress struct {
	method string // what stands before the hash's algorithm, with the last colon
	hash   string // <algo>:<hash>, in nix32
}

const (
	textMethod = "text:"
	flatMethod = "fixed:"
	narMethod  = "fixed:r:"
	gitMethod  = "fixed:git:"
)

// ParseContentAddress parses the CA of a path; "" is none.
func ParseContentAddress(s string) (ContentAddress, error) {
	if s == "" {
		return ContentAddress{}, nil
	}
	for _, method := range []string{textMethod, narMethod, gitMethod, flatMethod} { // the last is a prefix of others
		rest, ok := strings.CutPrefix(s, method)
		if !ok {
			continue
		}
		hash, err := nixhash.ParseAny(rest, nil)
		if err != nil || method == textMethod && hash.Algo() != nixhash.SHA256 {
			return ContentAddress{}, fmt.Errorf("%.100q is not a content address: its hash is not one", s)
		}
		return ContentAddress{method, hash.Format(nixhash.NixBase32, true)}, nil
	}
	return ContentAddress{}, fmt.Errorf("%.100q is not a content address (text:…, fixed:…)", s)
}

// IsZero says whether it is no content address.
func (ca ContentAddress) IsZero() bool { return ca == ContentAddress{} }

// String writes the address as Nix does; "" if it is none.
func (ca ContentAddress) String() string { return ca.method + ca.hash }

// parsed is the hash of the address, which isn't zero.
func (ca ContentAddress) parsed() *nixhash.HashWithEncoding {
	hash, err := nixhash.ParseAny(ca.hash, nil)
	if err != nil {
		panic(err) // ParseContentAddress has taken it
	}
	return hash
}

// IsNAR says whether the hash is that of the NAR; otherwise it is that of the
// content of the NAR's only file.
func (ca ContentAddress) IsNAR() bool { return ca.method == narMethod }

// NewHash returns the hash function of the address.
func (ca ContentAddress) NewHash() hash.Hash { return ca.parsed().Algo().Func().New() }

// Matches says whether sum is the hash of the address.
func (ca ContentAddress) Matches(sum []byte) bool { return slices.Equal(sum, ca.parsed().Digest()) }

// check returns an error unless the path of i follows from its name, its
// references and the address (Nix, src/libstore/store-dir-config.cc).
func (ca ContentAddress) check(i *PathInfo) error {
	if ca.method == gitMethod {
		return errors.New("a content address of git can't be recomputed")
	}
	if slices.Contains(i.References, i.Path) {
		return errors.New("a content address with a reference to itself can't be recomputed")
	}
	kind := "source"
	if ca.method == textMethod {
		kind = "text"
	}
	hash := ca.parsed()
	digest := hash.Digest()
	if ca.method != textMethod && !(ca.IsNAR() && hash.Algo() == nixhash.SHA256) {
		// What fetchers and fixed-output derivations make.
		if len(i.References) > 0 {
			return errors.New("this kind of content address has no references")
		}
		kind = "output:out"
		inner := "fixed:out:"
		if ca.IsNAR() {
			inner += "r:"
		}
		sum := sha256.Sum256([]byte(inner + hash.Format(nixhash.Base16, true) + ":"))
		digest = sum[:]
	}
	for _, ref := range i.References {
		kind += ":" + ref.String()
	}
	sum := sha256.Sum256([]byte(kind + ":sha256:" + hex.EncodeToString(digest) + ":" + StoreDir + ":" + i.Path.Name()))
	if want := nixbase32.EncodeToString(fold(sum[:])); want != i.Path.HashPart() {
		return fmt.Errorf("it belongs to %s/%s-%s", StoreDir, want, i.Path.Name())
	}
	if ca.IsNAR() && hash.Algo() == nixhash.SHA256 && !ca.Matches(i.NarHash[:]) {
		return errors.New("it is not that of the NAR")
	}
	return nil
}

// fold makes the 20 bytes of a path's hash of a longer one.
func fold(sum []byte) []byte {
	folded := make([]byte, 20)
	for i, b := range sum {
		folded[i%len(folded)] ^= b
	}
	return folded
}

// CheckContentAddress returns an error unless the store path follows from its
// content address. That the content does, too, remains to be seen.
func (i *PathInfo) CheckContentAddress() error {
	if i.CA.IsZero() {
		return fmt.Errorf("%s has no content address", i.Path)
	}
	if err := i.CA.check(i); err != nil {
		return fmt.Errorf("content address %s of %s: %w", i.CA, i.Path, err)
	}
	return nil
}
