// Package zstdfast compresses to zstd frames (RFC 8878) with one strategy: the one
// that libzstd calls ZSTD_fast, with a table as large as the cache of a core. It
// does what github.com/klauspost/compress does at its default level, with files
// of the same size, in two thirds of the time (docs/performance.md has figures),
// and nothing else. Literals are coded by that library's huff0; reading frames is
// left to it.
//
// It owes its speed to having each frame as a whole. There is no history to move,
// and positions are short enough to share 32 bits with a part of their hash, which
// nearly always tells that there is no match without a look at the data.
package zstdfast

import (
	"bytes"
	"encoding/binary"

	"github.com/klauspost/compress/huff0"
)

// MaxFrame is how much a frame may hold, in bytes.
const MaxFrame = 1 << positionBits

// maxBlock is how much a block may hold, in bytes (RFC 8878, 3.1.1.2.4).
const maxBlock = 128 << 10

// An Encoder makes frames, one at a time. It holds 1.2 MiB.
type Encoder struct {
	table  [1 << tableBits]uint32 // by their hash, positions in the frame; see entry
	recent offsets

	// What a block is made of.
	literals []byte // nLiteral of them, and room for more
	nLiteral int
	seqs     []sequence

	// What codes it.
	huffman                                    huff0.Scratch
	literalLengths, matchOffsets, matchLengths coder
}

// NewEncoder returns an Encoder.
func NewEncoder() *Encoder {
	e := &Encoder{
		literals: make([]byte, maxBlock+wordsCopied),
		seqs:     make([]sequence, 0, maxBlock/minMatch),
	}
	e.huffman.WantLogLess = 6 // to save less than 1/64 isn't worth the time of decoding it
	return e
}

// AppendFrame appends a frame that holds src, at most [MaxFrame] bytes, to dst. The
// frame has no checksum. Its bytes depend on nothing but src.
func (e *Encoder) AppendFrame(dst, src []byte) []byte {
	if len(src) > MaxFrame {
		panic("zstdfast: a frame that is too large")
	}
	dst = appendFrameHeader(dst, len(src))
	e.begin()
	for start := 0; ; start += maxBlock {
		end := min(start+maxBlock, len(src))
		last := end == len(src)
		dst = e.appendBlock(dst, src[:end], start, last)
		if last {
			return dst
		}
	}
}

// begin forgets the frame before.
func (e *Encoder) begin() {
	clear(e.table[:])
	e.recent = offsets{1, 4, 8}
	e.huffman.Reuse = huff0.ReusePolicyNone
}

// appendFrameHeader appends the header of a frame with so many bytes: a single
// segment, without a checksum.
func appendFrameHeader(dst []byte, size int) []byte {
	const (
		magic         = 0xFD2FB528
		singleSegment = 1 << 5
		twoBytes      = 1 << 6
		fourBytes     = 2 << 6
	)
	dst = binary.LittleEndian.AppendUint32(dst, magic)
	switch {
	case size < 256:
		return append(dst, singleSegment, byte(size))
	case size < 256+1<<16:
		return binary.LittleEndian.AppendUint16(append(dst, singleSegment|twoBytes), uint16(size-256))
	default:
		return binary.LittleEndian.AppendUint32(append(dst, singleSegment|fourBytes), uint32(size))
	}
}

const (
	rawBlock        = 0
	rleBlock        = 1
	compressedBlock = 2
	blockHeaderSize = 3
)

func putBlockHeader(dst []byte, kind, size int, last bool) {
	header := size<<3 | kind<<1
	if last {
		header |= 1
	}
	dst[0], dst[1], dst[2] = byte(header), byte(header>>8), byte(header>>16)
}

// appendBlock appends a block that holds src from start on.
func (e *Encoder) appendBlock(dst, src []byte, start int, last bool) []byte {
	content := src[start:]
	header := len(dst)
	dst = append(dst, 0, 0, 0)
	// Holes are unpacked many times faster so than as one long match. Not as a
	// frame's first block, which zstd up to 1.4.3 doesn't read.
	if start > 0 && bytes.Equal(content[1:], content[:len(content)-1]) {
		putBlockHeader(dst[header:], rleBlock, len(content), last)
		return append(dst, content[0])
	}
	before := e.recent
	if len(content) > minBlock {
		e.find(src, start)
		dst = e.appendLiterals(dst)
		dst = e.appendSequences(dst)
	}
	size, kind := len(dst)-header-blockHeaderSize, compressedBlock
	if size == 0 || size >= len(content) {
		dst = append(dst[:header+blockHeaderSize], content...)
		size, kind = len(content), rawBlock
		e.recent = before // as those who decode it don't see the sequences, nor the literals
		e.huffman.Reuse = huff0.ReusePolicyNone
	}
	putBlockHeader(dst[header:], kind, size, last)
	return dst
}

// appendLiterals appends a block's section of literals (RFC 8878, 3.1.1.3.1).
func (e *Encoder) appendLiterals(dst []byte) []byte {
	const (
		raw        = 0
		rle        = 1
		compressed = 2
		treeless   = 3
	)
	literals := e.literals[:e.nLiteral]
	n := len(literals)
	oneStream := n < 1024
	var out []byte
	var reused bool
	err := huff0.ErrIncompressible
	switch {
	case n < 32:
	case oneStream:
		out, reused, err = huff0.Compress1X(literals, &e.huffman)
	default:
		out, reused, err = huff0.Compress4X(literals, &e.huffman)
	}
	switch err {
	case nil:
		e.huffman.Reuse = huff0.ReusePolicyAllow
		kind := compressed
		if reused {
			kind = treeless
		}
		switch {
		case oneStream: // two sizes of 10 bits
			dst = append(dst, 0, 0, 0)
			putUint24(dst[len(dst)-3:], kind|n<<4|len(out)<<14)
		case n < 1<<14:
			dst = binary.LittleEndian.AppendUint32(dst, uint32(kind|2<<2|n<<4|len(out)<<18))
		default: // two sizes of 18 bits
			header := uint64(kind|3<<2) | uint64(n)<<4 | uint64(len(out))<<22
			dst = append(binary.LittleEndian.AppendUint32(dst, uint32(header)), byte(header>>32))
		}
		return append(dst, out...)
	case huff0.ErrUseRLE:
		return append(appendPlainHeader(dst, rle, n), literals[0])
	default:
		return append(appendPlainHeader(dst, raw, n), literals...)
	}
}

// appendPlainHeader appends the header of n literals that are not compressed.
func appendPlainHeader(dst []byte, kind, n int) []byte {
	switch {
	case n < 1<<5:
		return append(dst, byte(kind|n<<3))
	case n < 1<<12:
		return binary.LittleEndian.AppendUint16(dst, uint16(kind|1<<2|n<<4))
	default:
		dst = append(dst, 0, 0, 0)
		putUint24(dst[len(dst)-3:], kind|3<<2|n<<4)
		return dst
	}
}

func putUint24(b []byte, v int) { b[0], b[1], b[2] = byte(v), byte(v>>8), byte(v>>16) }
