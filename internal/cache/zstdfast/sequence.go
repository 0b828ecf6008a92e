package zstdfast

import (
	"encoding/binary"
	"math/bits"
)

// A sequence is some literals and a match behind them.
type sequence struct {
	literals uint32 // how many
	match    uint32 // its length, less the least that there can be, 3
	offset   uint32 // the offset and 3, or which of the recent ones

	literalsCode, matchCode, offsetCode uint8 // which are coded; the rest follows in plain bits
}

// literalsBits and matchBits are how many plain bits follow a code (RFC 8878,
// 3.1.1.3.2.1.1). What they say is always the low bits of the number.
var (
	literalsBits = [36]uint8{
		16: 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
	}
	matchBits = [53]uint8{
		32: 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
	}
	offsetBits = [32]uint8{
		0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
	}
)

// literalsCodes and matchCodes have the codes of small numbers; those of larger
// ones are the numbers of their bits, and some.
var (
	literalsCodes = codesOf[[64]uint8](literalsBits[:])
	matchCodes    = codesOf[[128]uint8](matchBits[:])
)

func codesOf[T [64]uint8 | [128]uint8](bits []uint8) (codes T) {
	n := 0
	for code, b := range bits {
		for range 1 << b {
			if n == len(codes) {
				return codes
			}
			codes[n] = uint8(code)
			n++
		}
	}
	return codes
}

func literalsCode(n uint32) uint8 {
	if n < uint32(len(literalsCodes)) {
		return literalsCodes[n]
	}
	return uint8(bits.Len32(n) + 18)
}

func matchCode(n uint32) uint8 {
	if n < uint32(len(matchCodes)) {
		return matchCodes[n]
	}
	return uint8(bits.Len32(n) + 35)
}

// appendSequences appends a block's section of sequences (RFC 8878, 3.1.1.3.2).
func (e *Encoder) appendSequences(dst []byte) []byte {
	seqs := e.seqs
	n := len(seqs)
	switch {
	case n == 0:
		return append(dst, 0)
	case n < 128:
		dst = append(dst, byte(n))
	case n < 0x7f00:
		dst = append(dst, byte(n>>8+128), byte(n))
	default:
		dst = append(dst, 255, byte(n-0x7f00), byte((n-0x7f00)>>8))
	}
	ll, of, ml := &e.literalLengths, &e.matchOffsets, &e.matchLengths
	ll.reset()
	of.reset()
	ml.reset()
	for i := range seqs {
		s := &seqs[i]
		s.literalsCode, s.matchCode, s.offsetCode = literalsCode(s.literals), matchCode(s.match), uint8(bits.Len32(s.offset)-1)
		ll.counts[s.literalsCode]++
		of.counts[s.offsetCode]++
		ml.counts[s.matchCode]++
	}
	modes := len(dst)
	dst = append(dst, 0)
	var llMode, ofMode, mlMode byte
	dst, llMode = ll.prepare(dst, &literalLengthsFormat, n)
	dst, ofMode = of.prepare(dst, &offsetsFormat, n)
	dst, mlMode = ml.prepare(dst, &matchLengthsFormat, n)
	dst[modes] = llMode<<6 | ofMode<<4 | mlMode<<2
	return appendCoded(dst, seqs, ll.table, of.table, ml.table)
}

// appendCoded appends sequences, coded, from the last to the first, as they are
// decoded from the end.
func appendCoded(dst []byte, seqs []sequence, ll, of, ml *table) []byte {
	// The states of a sequence take at most 9+8+9 bits, its plain bits at most
	// 16+16+22, and a store 8 bytes.
	const most = 10
	size := len(dst)
	dst = grow(dst, most*len(seqs)+8)
	var word uint64 // bits to be written, the low ones first
	var n uint      // how many: at most 7 after each sequence
	put := dst[size:]

	last := &seqs[len(seqs)-1]
	llCode, ofCode, mlCode := &ll.symbols[last.literalsCode], &of.symbols[last.offsetCode], &ml.symbols[last.matchCode]
	llState, ofState, mlState := ll.first(llCode), of.first(ofCode), ml.first(mlCode)
	for i := len(seqs) - 1; ; {
		s := &seqs[i]
		llBits, mlBits, ofBits := llCode.plain&31, mlCode.plain&31, ofCode.plain&31
		if llBits+mlBits+ofBits > 64-7-26 {
			binary.LittleEndian.PutUint64(put, word)
			put, word, n = put[n>>3:], word>>(n&^7), n&7
		}
		word |= uint64(s.literals&(1<<llBits-1)) << n
		n += uint(llBits)
		word |= uint64(s.match&(1<<mlBits-1)) << n
		n += uint(mlBits)
		word |= uint64(s.offset&(1<<ofBits-1)) << n
		n += uint(ofBits)
		binary.LittleEndian.PutUint64(put, word)
		put, word, n = put[n>>3:], word>>(n&^7), n&7
		if i--; i < 0 {
			break
		}
		s = &seqs[i]
		llCode, ofCode, mlCode = &ll.symbols[s.literalsCode], &of.symbols[s.offsetCode], &ml.symbols[s.matchCode]

		out := (ofState + ofCode.deltaBits) >> 16
		word |= uint64(ofState&(1<<out-1)) << n
		n += uint(out)
		ofState = uint32(of.next[(ofState>>out+ofCode.deltaState)&(maxStates-1)])

		out = (mlState + mlCode.deltaBits) >> 16
		word |= uint64(mlState&(1<<out-1)) << n
		n += uint(out)
		mlState = uint32(ml.next[(mlState>>out+mlCode.deltaState)&(maxStates-1)])

		out = (llState + llCode.deltaBits) >> 16
		word |= uint64(llState&(1<<out-1)) << n
		n += uint(out)
		llState = uint32(ll.next[(llState>>out+llCode.deltaState)&(maxStates-1)])
	}
	word |= uint64(mlState&(1<<ml.log-1)) << n
	n += ml.log
	word |= uint64(ofState&(1<<of.log-1)) << n
	n += of.log
	word |= uint64(llState&(1<<ll.log-1)) << n
	n += ll.log
	word |= 1 << n // marks the end
	n++
	binary.LittleEndian.PutUint64(put, word)
	return dst[:len(dst)-len(put)+int(n+7)/8]
}

// grow appends n bytes of any value.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b[:len(b)+n]
	}
	return append(b, make([]byte, n)...)
}
