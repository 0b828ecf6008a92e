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
type ContentAddress struct {
	text bool // text:
	nar  bool // fixed:r:
	hash *nixhash.HashWithEncoding
}

// ParseContentAddress parses the CA of a path. Addresses by git tree hash are
// an error.
func ParseContentAddress(s string) (ContentAddress, error) {
	var ca ContentAddress
	rest, ok := strings.CutPrefix(s, "text:")
	if ok {
		ca.text = true
	} else if rest, ok = strings.CutPrefix(s, "fixed:"); ok {
		rest, ca.nar = strings.CutPrefix(rest, "r:")
	}
	if !ok {
		return ca, fmt.Errorf("%q is not a content address that can be recomputed (text:…, fixed:…)", s)
	}
	var err error
	ca.hash, err = nixhash.ParseAny(rest, nil)
	if err != nil || ca.text && ca.hash.Algo() != nixhash.SHA256 {
		return ca, fmt.Errorf("%q is not a content address: its hash is not one", s)
	}
	return ca, nil
}

// IsNAR says whether the hash is that of the NAR; otherwise it is that of the
// content of the NAR's only file.
func (ca ContentAddress) IsNAR() bool { return ca.nar }

// NewHash returns the hash function of the address.
func (ca ContentAddress) NewHash() hash.Hash { return ca.hash.Algo().Func().New() }

// Matches says whether sum is the hash of the address.
func (ca ContentAddress) Matches(sum []byte) bool { return slices.Equal(sum, ca.hash.Digest()) }

// check returns an error unless the path of i follows from its name, its
// references and the address (Nix, src/libstore/store-dir-config.cc).
func (ca ContentAddress) check(i *PathInfo) error {
	if slices.Contains(i.References, i.Path) {
		return errors.New("a content address with a reference to itself can't be recomputed")
	}
	kind := "source"
	if ca.text {
		kind = "text"
	}
	digest := ca.hash.Digest()
	if !ca.text && !(ca.nar && ca.hash.Algo() == nixhash.SHA256) {
		// What fetchers and fixed-output derivations make.
		if len(i.References) > 0 {
			return errors.New("this kind of content address has no references")
		}
		kind = "output:out"
		inner := "fixed:out:"
		if ca.nar {
			inner += "r:"
		}
		sum := sha256.Sum256([]byte(inner + ca.hash.Format(nixhash.Base16, true) + ":"))
		digest = sum[:]
	}
	for _, ref := range i.References {
		kind += ":" + ref.String()
	}
	sum := sha256.Sum256([]byte(kind + ":sha256:" + hex.EncodeToString(digest) + ":" + StoreDir + ":" + i.Path.Name()))
	if want := nixbase32.EncodeToString(fold(sum[:])); want != i.Path.HashPart() {
		return fmt.Errorf("it belongs to %s/%s-%s", StoreDir, want, i.Path.Name())
	}
	if ca.nar && ca.hash.Algo() == nixhash.SHA256 && !ca.Matches(i.NarHash[:]) {
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

// CheckContentAddress returns the path's content address if its store path
// follows from it. That the content does, too, remains to be seen.
func (i *PathInfo) CheckContentAddress() (ContentAddress, error) {
	ca, err := ParseContentAddress(i.CA)
	if err == nil {
		err = ca.check(i)
	}
	if err != nil {
		return ContentAddress{}, fmt.Errorf("content address %s of %s: %w", i.CA, i.Path, err)
	}
	return ca, nil
}
