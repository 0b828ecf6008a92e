// Package compression undoes the compressions that Nix and its caches use, by
// the names that they have there.
//
// Every reader is bounded in memory: by the window of a zstd frame or the dictionary
// of an lzma stream; that of an xz stream is as large as it says (at most 4 GiB), but
// only as much of it is touched as has been read. Reading more than is wanted is for
// the caller to bound.
package compression

import (
	"compress/bzip2"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// MaxWindow is the largest window or dictionary that is read, in bytes: the limit
// of the zstd program, so that whatever it unpacks is unpacked here, and twice that
// of xz -9.
const MaxWindow = 128 << 20

// MaxIdle is how many decoders of zstd are kept, with the memory that they have, for
// the next streams.
const MaxIdle = 16

// ErrUnknown is wrapped by the error of a compression that isn't read.
var ErrUnknown = errors.New("the compression is not known")

// NewReader returns what r holds, compressed as Nix calls it: none (or empty), zstd,
// xz, bzip2, gzip, br, lz4 or lzma. Closing it doesn't close r.
func NewReader(name string, r io.Reader) (io.ReadCloser, error) {
	switch name {
	case "", "none":
		return io.NopCloser(r), nil
	case "zstd":
		return newZstdReader(r)
	case "xz":
		return nopCloser(xz.NewReader(r))
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(r)), nil
	case "gzip":
		return gzip.NewReader(r)
	case "br":
		return io.NopCloser(brotli.NewReader(r)), nil
	case "lz4":
		return io.NopCloser(lz4.NewReader(r)), nil
	case "lzma":
		return newLZMAReader(r)
	}
	return nil, fmt.Errorf("%w: %.100q", ErrUnknown, name)
}

// NewContentReader returns what a body holds whose header Content-Encoding says
// how it was encoded: one or several of gzip, deflate, br, zstd, xz and others of
// NewReader, with commas between them. Identity says nothing, as does aws-chunked,
// which some stores keep from the upload.
func NewContentReader(encoding string, r io.ReadCloser) (io.ReadCloser, error) {
	body := r
	codings := strings.Split(encoding, ",")
	for i := len(codings) - 1; i >= 0; i-- { // the last was applied last
		name := strings.ToLower(strings.TrimSpace(codings[i]))
		var plain io.ReadCloser
		var err error
		switch name = strings.TrimPrefix(name, "x-"); name {
		case "", "identity", "aws-chunked":
			continue
		case "deflate":
			plain, err = newDeflateReader(body)
		default:
			plain, err = NewReader(name, body)
		}
		if err != nil {
			return nil, fmt.Errorf("its Content-Encoding is %s: %w", encoding, err)
		}
		body = &nested{plain, body}
	}
	return body, nil
}

// IsEncoded says whether a Content-Encoding says anything.
func IsEncoded(encoding string) bool {
	for coding := range strings.SplitSeq(encoding, ",") {
		switch strings.ToLower(strings.TrimSpace(coding)) {
		case "", "identity", "aws-chunked":
		default:
			return true
		}
	}
	return false
}

// A nested reader closes what it reads from, too.
type nested struct {
	io.ReadCloser
	inner io.Closer
}

func (n *nested) Close() error { return errors.Join(n.ReadCloser.Close(), n.inner.Close()) }

func nopCloser[R io.Reader](r R, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}

// newDeflateReader reads zlib's format, which the header means, or bare deflate,
// which some servers send.
func newDeflateReader(r io.Reader) (io.ReadCloser, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	whole := io.MultiReader(strings.NewReader(string(head[:])), r)
	if head[0]&0x0f == 8 && binary.BigEndian.Uint16(head[:])%31 == 0 {
		return zlib.NewReader(whole)
	}
	return flate.NewReader(whole), nil
}

// newLZMAReader reads the format of the lzma program, whose header says how large
// the dictionary is.
func newLZMAReader(r io.Reader) (io.ReadCloser, error) {
	var head [lzma.HeaderLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if size := binary.LittleEndian.Uint32(head[1:5]); size > MaxWindow {
		return nil, fmt.Errorf("its dictionary has %d bytes, and may have %d", size, MaxWindow)
	}
	return nopCloser(lzma.NewReader(io.MultiReader(strings.NewReader(string(head[:])), r)))
}

// idle are decoders for the next streams.
var idle = make(chan *zstd.Decoder, MaxIdle)

// A zstdReader unpacks zstd. Closed, it leaves its decoder to the next one.
type zstdReader struct{ *zstd.Decoder }

func newZstdReader(r io.Reader) (io.ReadCloser, error) {
	select {
	case d := <-idle:
		return zstdReader{d}, d.Reset(r)
	default:
	}
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(MaxWindow))
	return zstdReader{d}, err
}

func (r zstdReader) Close() error {
	r.Reset(nil) // it lets go of what it read from
	select {
	case idle <- r.Decoder:
	default:
		r.Decoder.Close()
	}
	return nil
}
