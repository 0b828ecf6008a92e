package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/compression"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A VerifyError says that the bytes of a path are not what its narinfo
// announces.
type VerifyError struct {
	Path      nix.StorePath
	Cache     string
	Key       string // of the file
	What      string // FileHash, FileSize, NarHash, NarSize or CA
	Want, Got string
}

func (e *VerifyError) Error() string {
	return fmt.Sprintf("%s in %s is damaged: %s of %s is %s, its narinfo says %s", e.Path, e.Cache, e.What, e.Key, e.Got, e.Want)
}

// A narReader yields a NAR from the cache. Its Read returns io.EOF only after
// everything that the narinfo announces of it has been found to hold: until
// then, what has been read is not to be believed.
type narReader struct {
	cache *Cache
	ni    *NarInfo
	body  io.Closer
	file  fileReader    // the file, as it is sent
	whole bool          // what the narinfo says of the file must hold, too
	plain io.ReadCloser // the NAR, decompressed
	hash  hash.Hash     // of the NAR
	addr  *addressCheck // if its content address is all that vouches for it
	read  int64         // of the NAR, in bytes
	err   error         // what Read returns from now on
}

// openNAR opens the NAR of ni, where it lies. What is read of the file, as it is
// sent, goes to raw, too, if that isn't nil; by the io.EOF of the reader, raw has
// had all of it.
//
// FileHash and FileSize aren't looked at, as Nix doesn't: of what is unpacked, the
// signed NarHash says all, who could replace the file could replace the FileHash,
// and caches that pass on what others have compressed get them wrong.
func (c *Cache) openNAR(ctx context.Context, ni *NarInfo, raw io.Writer) (*narReader, error) {
	c = ni.owner(c)
	object, err := c.store.Get(ctx, ni.URL, blob.GetOptions{})
	if err != nil {
		return nil, c.noFile(ni, err)
	}
	r := &narReader{
		cache: c,
		ni:    ni,
		body:  object.Body,
		file:  fileReader{r: object.Body, limit: plausibleFileSize(ni.NarSize)},
		hash:  sha256.New(),
	}
	if raw != nil {
		r.file.raw = newDigest(raw)
	}
	if r.plain, err = compression.NewReader(ni.Compression, &r.file); err != nil {
		object.Body.Close()
		return nil, fmt.Errorf("unpacking %s of %s: %w", ni.URL, ni.Path, err)
	}
	if !ni.CA.IsZero() && c.config.RequireSigs && !ni.SignedBy(c.config.PublicKeys) && ni.CheckContentAddress() == nil {
		r.addr = newAddressCheck(ni.CA)
	}
	return r, nil
}

// noFile words the store's error about the file of ni.
func (c *Cache) noFile(ni *NarInfo, err error) error {
	if !errors.Is(err, blob.ErrNotExist) {
		return fmt.Errorf("fetching %s: %w", ni.Path, storeError{err})
	}
	return hint.With(fmt.Errorf("fetching %s: %w", ni.Path, err),
		"its narinfo is there, but its file isn't: something has deleted objects from %s", c)
}

// A storeError is a failure of the store itself. It says nothing about what is
// in there.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// plausibleFileSize is what no compression of a NAR of that size exceeds.
func plausibleFileSize(narSize int64) int64 { return narSize + narSize/16 + 1<<20 }

func (r *narReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	// One byte past the announced size tells a longer NAR from an ended one.
	if remaining := r.ni.NarSize - r.read + 1; int64(len(p)) > remaining {
		p = p[:remaining]
	}
	n, err := r.plain.Read(p)
	r.hash.Write(p[:n])
	r.read += int64(n)
	if r.addr != nil {
		r.addr.Write(p[:n])
	}
	switch {
	case r.read > r.ni.NarSize:
		n, r.err = 0, r.damaged("NarSize", r.ni.NarSize, "more")
	case err == io.EOF:
		r.err = r.finish()
	case err != nil && r.file.err != nil:
		r.err = fmt.Errorf("reading %s of %s: %w", r.ni.URL, r.ni.Path, r.file.err)
	case err != nil:
		r.err = fmt.Errorf("unpacking %s of %s: %w", r.ni.URL, r.ni.Path, err)
	}
	return n, r.err
}

// finish checks what can be checked only at the end. It returns io.EOF if all
// is well.
func (r *narReader) finish() error {
	// The file must end where the compressed stream ends.
	if _, err := io.Copy(io.Discard, &r.file); err != nil {
		return fmt.Errorf("reading %s of %s: %w", r.ni.URL, r.ni.Path, err)
	}
	ni := r.ni
	if r.whole && ni.FileSize > 0 && r.file.read != ni.FileSize {
		return r.damaged("FileSize", ni.FileSize, r.file.read)
	}
	if raw := r.file.raw; r.whole && raw != nil && !ni.FileHash.IsZero() {
		if got := nix.SumHash(raw.hash); got != ni.FileHash {
			return r.damaged("FileHash", ni.FileHash, got)
		}
	}
	if r.read != ni.NarSize {
		return r.damaged("NarSize", ni.NarSize, r.read)
	}
	if got := nix.SumHash(r.hash); got != ni.NarHash {
		return r.damaged("NarHash", ni.NarHash, got)
	}
	if r.addr != nil {
		if err := r.addr.finish(); err != nil {
			return fmt.Errorf("%s in %s: %w", ni.Path, r.cache, err)
		}
	}
	return io.EOF
}

func (r *narReader) damaged(what string, want, got any) error {
	return r.cache.damaged(r.ni, what, want, got)
}

func (c *Cache) damaged(ni *NarInfo, what string, want, got any) error {
	return hint.With(&VerifyError{ni.Path, c.String(), ni.URL, what, fmt.Sprint(want), fmt.Sprint(got)},
		"nixos-closure verify finds all that is damaged, and says what to delete before the closure is pushed again")
}

// Close gives up the request. It must be called.
func (r *narReader) Close() error {
	if r.addr != nil {
		r.addr.abandon()
	}
	r.plain.Close()
	return r.body.Close()
}

// A fileReader reads a file of the cache, and keeps count.
type fileReader struct {
	r     io.Reader
	raw   *digest // if not nil, what is read goes there, too
	read  int64   // bytes so far
	limit int64   // an error beyond so many bytes
	err   error   // the first error that isn't io.EOF
}

func (f *fileReader) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	if remaining := f.limit - f.read + 1; int64(len(p)) > remaining {
		p = p[:remaining]
	}
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		err = storeError{err}
	}
	f.read += int64(n)
	if f.read > f.limit {
		n, err = 0, fmt.Errorf("the file is longer than the %d bytes that it may have", f.limit)
	}
	if n > 0 && f.raw != nil {
		if _, err := f.raw.Write(p[:n]); err != nil {
			f.err = err
			return 0, err
		}
	}
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

// verifyNAR reads the NAR of ni and says whether it and its file are what ni
// announces, and whether it is an archive. The file goes to raw, and what it
// unpacks to, to progress.
func (c *Cache) verifyNAR(ctx context.Context, ni *NarInfo, raw, progress io.Writer) error {
	return c.readNAR(ctx, ni, raw, progress, true)
}

// readNAR is verifyNAR; unless whole, what ni says of the file need not hold.
func (c *Cache) readNAR(ctx context.Context, ni *NarInfo, raw, progress io.Writer, whole bool) error {
	r, err := c.openNAR(ctx, ni, raw)
	if err != nil {
		return err
	}
	defer r.Close()
	r.whole = whole
	archive := nar.NewReader(io.TeeReader(r, progress))
	for {
		if _, err := archive.Next(); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s in %s: %w", ni.Path, c, err)
		}
	}
}

// A digest hashes and counts what goes through it.
type digest struct {
	w    io.Writer
	hash hash.Hash
	size int64 // in bytes
}

func newDigest(w io.Writer) *digest { return &digest{w: w, hash: sha256.New()} }

func (d *digest) Write(p []byte) (int, error) {
	d.hash.Write(p)
	d.size += int64(len(p))
	return d.w.Write(p)
}
