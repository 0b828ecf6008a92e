package zstdfast

import (
	"encoding/binary"
	"math/bits"
)

const (
	// positionBits of an entry of the table are a position in the frame, the
	// others a tag: bits of the hash that the entry's place doesn't tell.
	positionBits = 23
	tagBits      = 32 - positionBits
	positionMask = 1<<positionBits - 1

	// tableBits makes a table of 512 KiB, which stays in the cache of a core.
	tableBits = 17

	// minMatch is the shortest match, in bytes: what find compares.
	minMatch = 4

	// minBlock is the size of blocks that aren't worth looking at, in bytes. It
	// keeps find's reads of whole words inside of a block.
	minBlock = 32

	// wordsCopied are the bytes that are copied at once for a few literals, of
	// which there are fewer most of the time.
	wordsCopied = 16
)

// hash hashes the first six bytes of a word into the place of an entry and a
// tag, the tag being the low bits.
func hash(word uint64) uint32 {
	const prime = 227718039650203 // of libzstd's ZSTD_hash6
	return uint32((word << 16) * prime >> (64 - tableBits - tagBits))
}

// entry is what the table says of a position with this hash: 0 may also mean that
// there is none, as the frame's first position has this place and tag as well as
// any.
func entry(position int, hash uint32) uint32 { return uint32(position) | hash<<positionBits }

// matchLen is how many bytes at a and at b, which is behind, are the same.
func matchLen(src []byte, a, b int) int {
	start := b
	for b+8 <= len(src) {
		if diff := load64(src, a) ^ load64(src, b); diff != 0 {
			return b - start + bits.TrailingZeros64(diff)>>3
		}
		a, b = a+8, b+8
	}
	for b < len(src) && src[a] == src[b] {
		a, b = a+1, b+1
	}
	return b - start
}

// find splits src from start on into sequences and literals. What is before
// start has been found already.
//
// It looks at every other pair of positions, and at fewer the longer nothing is
// found: is there at one of the two what the table knows of an earlier position
// with the same six bytes, or, two bytes on, a repetition at the last offset?
// The table is asked for the next pair before it is needed.
func (e *Encoder) find(src []byte, start int) {
	const (
		look         = 10 // bytes from a position on that are read
		acceleration = 7  // after each 1<<acceleration bytes without a match, steps grow by one
	)
	e.seqs, e.nLiteral = e.seqs[:0], 0
	limit := len(src) - look
	table := &e.table
	anchor := start // of the literals
	s := max(start, 1)
	word := load64(src, s)
	h0, h1 := hash(word), hash(word>>8)
	entry0, entry1 := table[h0>>tagBits], table[h1>>tagBits]
	for s < limit {
		table[h0>>tagBits] = entry(s, h0)
		table[h1>>tagBits] = entry(s+1, h1)
		next := min(s+2+(s-anchor)>>acceleration, limit)
		nextWord := load64(src, next)
		next0, next1 := hash(nextWord), hash(nextWord>>8)
		nextEntry0, nextEntry1 := table[next0>>tagBits], table[next1>>tagBits]

		rep := e.recent[0]
		var from int // where the match is repeated from
		switch {
		case load32(src, s+2-rep) == uint32(word>>16):
			s += 2
			from = s - rep
		case entry0>>positionBits == h0&(1<<tagBits-1) && load32(src, int(entry0&positionMask)) == uint32(word):
			from = int(entry0 & positionMask)
		case entry1>>positionBits == h1&(1<<tagBits-1) && load32(src, int(entry1&positionMask)) == uint32(word>>8):
			from = int(entry1 & positionMask)
			s++
		default:
			s, word, h0, h1, entry0, entry1 = next, nextWord, next0, next1, nextEntry0, nextEntry1
			continue
		}
		inserted := s
		end := s + 4 + matchLen(src, from+4, s+4)
		for s > anchor && from > 0 && src[s-1] == src[from-1] {
			s, from = s-1, from-1
		}
		literals := s - anchor
		e.addLiterals(src, anchor, s)
		offset := s - from
		code := uint32(1)
		if offset != rep || literals == 0 {
			code = e.recent.code(offset, literals > 0)
		}
		e.seqs = append(e.seqs, sequence{literals: uint32(literals), match: uint32(end - s - 3), offset: code})
		anchor, s = end, end
		if s >= limit {
			break
		}
		h := hash(load64(src, inserted+2))
		table[h>>tagBits] = entry(inserted+2, h)
		h = hash(load64(src, s-2))
		table[h>>tagBits] = entry(s-2, h)
		for s < limit && load32(src, s) == load32(src, s-e.recent[1]) {
			end := s + 4 + matchLen(src, s-e.recent[1]+4, s+4)
			h := hash(load64(src, s))
			table[h>>tagBits] = entry(s, h)
			e.seqs = append(e.seqs, sequence{match: uint32(end - s - 3), offset: 1})
			e.recent[0], e.recent[1] = e.recent[1], e.recent[0]
			anchor, s = end, end
		}
		if s >= limit {
			break
		}
		word = load64(src, s)
		h0, h1 = hash(word), hash(word>>8)
		entry0, entry1 = table[h0>>tagBits], table[h1>>tagBits]
	}
	e.addLiterals(src, anchor, len(src))
}

// addLiterals adds the literals from anchor to end.
func (e *Encoder) addLiterals(src []byte, anchor, end int) {
	n := end - anchor
	to := e.literals[e.nLiteral:]
	if n <= wordsCopied && anchor+wordsCopied <= len(src) {
		binary.LittleEndian.PutUint64(to, load64(src, anchor))
		binary.LittleEndian.PutUint64(to[8:], load64(src, anchor+8))
	} else {
		copy(to, src[anchor:end])
	}
	e.nLiteral += n
}

// offsets are those of the latest matches, the latest first.
type offsets [3]int

// code returns what stands for an offset in a sequence with or without
// literals, and notes it (RFC 8878, 3.1.1.5). With literals it must not be the
// latest, which is 1. Without, the latest has no number, and needs none: the match
// before would have been longer, unless its block ended.
func (r *offsets) code(offset int, literals bool) uint32 {
	first, second, third := r[0], r[1], r[2]
	code := uint32(2)
	if !literals {
		code = 1
	}
	switch offset {
	case second:
		r[0], r[1] = second, first
	case third:
		r[0], r[1], r[2] = third, first, second
		code++
	default:
		r[0], r[1], r[2] = offset, first, second
		code = uint32(offset) + 3
	}
	return code
}
