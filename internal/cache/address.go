package cache

import (
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// An addressCheck computes the hash of a content address from the NAR that is
// written to it. Write never fails: finish says what is wrong.
type addressCheck struct {
	ca   nix.ContentAddress
	hash hash.Hash
	w    io.Writer      // takes the NAR
	pipe *io.PipeWriter // to where the NAR is unpacked; nil if it needn't be
	done chan error     // what came of that
}

func newAddressCheck(ca nix.ContentAddress) *addressCheck {
	a := &addressCheck{ca: ca, hash: ca.NewHash()}
	if ca.IsNAR() {
		a.w = a.hash
		return a
	}
	var r *io.PipeReader
	r, a.pipe = io.Pipe()
	a.w, a.done = a.pipe, make(chan error, 1)
	go func() {
		err := hashOnlyFile(a.hash, r)
		r.CloseWithError(err)
		a.done <- err
	}()
	return a
}

// hashOnlyFile hashes the content of the only file of a NAR.
func hashOnlyFile(h hash.Hash, r io.Reader) error {
	archive := nar.NewReader(r)
	entry, err := archive.Next()
	if err != nil {
		return err
	}
	if entry.Type != nar.Regular || entry.Executable {
		return errors.New("its content address is that of a plain file, which it is not")
	}
	if _, err := io.Copy(h, archive); err != nil {
		return err
	}
	if _, err := archive.Next(); err != io.EOF {
		return err
	}
	return nil
}

func (a *addressCheck) Write(p []byte) (int, error) {
	a.w.Write(p) // finish has the error
	return len(p), nil
}

// finish says whether what was written has the address.
func (a *addressCheck) finish() error {
	if a.pipe != nil {
		a.pipe.Close()
		a.pipe = nil
		if err := <-a.done; err != nil {
			return err
		}
	}
	if sum := a.hash.Sum(nil); !a.ca.Matches(sum) {
		return fmt.Errorf("its content has the hash %x, which is not that of its content address", sum)
	}
	return nil
}

// abandon ends the check without a result. After finish, it does nothing.
func (a *addressCheck) abandon() {
	if a.pipe != nil {
		a.pipe.CloseWithError(io.ErrUnexpectedEOF)
	}
}
