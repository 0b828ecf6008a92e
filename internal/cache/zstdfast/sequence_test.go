package zstdfast

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// As many sequences as a block can have need a longer count; find makes so many
// of nothing that is likely.
func TestManySequences(t *testing.T) {
	for _, n := range []int{127, 128, 0x7eff, 0x7f00, 0x7fff} {
		e := NewEncoder()
		e.begin()
		e.nLiteral = copy(e.literals, "abcd")
		for range n { // "abcd" again
			e.seqs = append(e.seqs, sequence{match: 4 - 3, offset: 4 + 3})
		}
		e.seqs[0].literals = 4
		testBlock(t, e, bytes.Repeat([]byte("abcd"), 1+n))
	}
}

// Nor does find leave many literals that are all the same.
func TestLiteralsOfOneKind(t *testing.T) {
	for _, n := range []int{31, 32, 4095, 4096, 1 << 17} {
		e := NewEncoder()
		e.begin()
		want := bytes.Repeat([]byte("a"), n)
		e.nLiteral = copy(e.literals, want)
		testBlock(t, e, want)
	}
}

// What stands for an offset is held against what a decoder makes of it (RFC 8878,
// 3.1.1.5).
func TestOffsets(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	ours, theirs := offsets{1, 4, 8}, offsets{1, 4, 8}
	for range 100_000 {
		offset, literals := 1+r.IntN(6), r.IntN(2) == 0 // few, so that they come again
		code := uint32(1)
		if offset != ours[0] || !literals {
			code = ours.code(offset, literals)
		}
		got := int(code) - 3
		if code <= 3 {
			i := int(code) - 1
			if !literals {
				i++
			}
			got = theirs[i] // a fourth is never written
			copy(theirs[1:i+1], theirs[:i])
		} else {
			copy(theirs[1:], theirs[:2])
		}
		theirs[0] = got
		if got != offset || theirs != ours {
			t.Fatalf("%d, with literals: %v, is read as %d; recent are %v and %v", offset, literals, got, ours, theirs)
		}
	}
}

// testBlock writes the block that the encoder has found, and has it read.
func testBlock(t *testing.T, e *Encoder, want []byte) {
	t.Helper()
	frame := appendFrameHeader(nil, len(want))
	header := len(frame)
	frame = e.appendSequences(e.appendLiterals(append(frame, 0, 0, 0)))
	putBlockHeader(frame[header:], compressedBlock, len(frame)-header-blockHeaderSize, true)
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got, err := d.DecodeAll(frame, nil); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d literals and %d sequences: %d bytes come back as %d others: %v", e.nLiteral, len(e.seqs), len(want), len(got), err)
	}
}
