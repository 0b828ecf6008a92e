package zstdfast

import "math/bits"

const (
	maxSymbols = 53     // codes of match lengths, of which there are most
	maxStates  = 1 << 9 // of the largest table
	minLog     = 5      // of the smallest that can be described
)

// A format says how one of the three numbers of sequences is coded (RFC 8878,
// 3.1.1.3.2).
type format struct {
	maxLog     uint    // of the largest table
	plain      []uint8 // bits that follow each code
	predefined table
}

func newFormat(maxLog uint, plain []uint8, log uint, counts ...int16) (f format) {
	f = format{maxLog: maxLog, plain: plain}
	f.predefined.build(counts, log, plain)
	return f
}

var (
	literalLengthsFormat = newFormat(9, literalsBits[:], 6,
		4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2,
		2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1)
	matchLengthsFormat = newFormat(9, matchBits[:], 6,
		1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
		1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1,
		-1, -1, -1, -1, -1)
	offsetsFormat = newFormat(8, offsetBits[:], 5,
		1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1)
)

// A coder has what a block's numbers of one kind are coded with.
type coder struct {
	counts [maxSymbols]uint32
	norm   [maxSymbols]int16
	own    table
	table  *table // the one to use
}

func (c *coder) reset() { clear(c.counts[:]) }

// prepare chooses a table for total numbers that have been counted. It appends
// its description, and returns the mode that stands for it.
func (c *coder) prepare(dst []byte, f *format, total int) ([]byte, byte) {
	const (
		predefinedMode = 0
		rleMode        = 1
		compressedMode = 2
	)
	symbols, most := 0, uint32(0)
	for symbol, count := range c.counts {
		if count > 0 {
			symbols, most = symbol+1, max(most, count)
		}
	}
	switch {
	case total > 2 && int(most) == total:
		c.own.buildOne(uint8(symbols-1), f.plain)
		c.table = &c.own
		return append(dst, byte(symbols-1)), rleMode
	case total < 64:
		// So few aren't worth the description of a table.
		c.table = &f.predefined
		return dst, predefinedMode
	}
	log := min(f.maxLog, uint(max(minLog, bits.Len(uint(total-1))-3, bits.Len(uint(symbols))+1)))
	norm := c.norm[:symbols]
	normalize(norm, c.counts[:symbols], total, log)
	c.own.build(norm, log, f.plain)
	c.table = &c.own
	return appendDescription(dst, norm, log), compressedMode
}

// normalize scales counts that add up to total, so that they add up to 1<<log,
// and none that is there vanishes.
func normalize(norm []int16, counts []uint32, total int, log uint) {
	left := 1 << log
	largest := 0
	for symbol, count := range counts {
		n := 0
		if count > 0 {
			n = max(1, int((uint64(count)<<log+uint64(total)/2)/uint64(total)))
		}
		norm[symbol] = int16(n)
		left -= n
		if norm[symbol] > norm[largest] {
			largest = symbol
		}
	}
	if left >= 0 || -left < int(norm[largest])/4 {
		norm[largest] += int16(left)
		return
	}
	for ; left < 0; left++ { // too many were rounded up: those pay who feel it least
		largest := 0
		for symbol := range norm {
			if norm[symbol] > norm[largest] {
				largest = symbol
			}
		}
		norm[largest]--
	}
}

// appendDescription appends what a table is built from (RFC 8878, 4.1.1).
func appendDescription(dst []byte, norm []int16, log uint) []byte {
	word, n := uint64(log-minLog), uint(4) // bits to be written, and how many
	flush := func() {
		for ; n >= 8; n -= 8 {
			dst = append(dst, byte(word))
			word >>= 8
		}
	}
	remaining, threshold, size := 1<<log+1, 1<<log, log+1
	for symbol := 0; remaining > 1; {
		count := int(norm[symbol])
		symbol++
		most := 2*threshold - 1 - remaining
		remaining -= count
		code := count + 1
		if code >= threshold {
			code += most
		}
		word |= uint64(code) << n
		n += size
		if code < most {
			n--
		}
		flush()
		for remaining < threshold {
			size--
			threshold >>= 1
		}
		if count == 0 { // how many more of them, by threes
			for ; norm[symbol] == 0 && norm[symbol+1] == 0 && norm[symbol+2] == 0; symbol += 3 {
				word |= 3 << n
				n += 2
				flush()
			}
			zeros := 0
			for ; norm[symbol] == 0; symbol++ {
				zeros++
			}
			word |= uint64(zeros) << n
			n += 2
			flush()
		}
	}
	n += 7
	flush()
	return dst
}

// A table codes symbols by a finite state machine (RFC 8878, 4.1). A state is
// the number of a decoder's state and 1<<log.
type table struct {
	log     uint
	symbols [maxSymbols]symbol
	next    [maxStates]uint16 // states, those that lead to the same symbol side by side
}

// A symbol says how a state s becomes the one before it, that leads to this
// symbol: (s+deltaBits)>>16 low bits of s are written, and the others and
// deltaState are the place of the next state.
type symbol struct {
	deltaBits  uint32
	deltaState uint32 // may be negative, by wrapping around
	plain      uint8  // bits that follow the symbol
}

// build makes a table of normalized counts, of which -1 is one that is less than
// 1 (as libzstd's FSE_buildCTable_wksp does).
func (t *table) build(norm []int16, log uint, plain []uint8) {
	t.log = log
	size := uint32(1) << log
	var of [maxStates]uint8 // the symbol of each state
	var begin [maxSymbols]uint16
	high := size - 1
	total := uint16(0)
	for symbol, count := range norm {
		begin[symbol] = total
		if count == -1 {
			of[high] = uint8(symbol)
			high--
			count = 1
		}
		total += uint16(count)
	}
	position, step := uint32(0), size>>1+size>>3+3
	for symbol, count := range norm {
		for range max(count, 0) {
			of[position] = uint8(symbol)
			for ok := true; ok; ok = position > high {
				position = (position + step) & (size - 1)
			}
		}
	}
	next := begin
	for state, symbol := range of[:size] {
		t.next[next[symbol]] = uint16(size) + uint16(state)
		next[symbol]++
	}
	for i, count := range norm {
		s := symbol{plain: plain[i]}
		switch count {
		case 0:
		case -1, 1:
			s.deltaBits = uint32(log)<<16 - size
			s.deltaState = uint32(begin[i]) - 1
		default:
			most := uint32(log) - uint32(bits.Len16(uint16(count-1))-1)
			s.deltaBits = most<<16 - uint32(count)<<most
			s.deltaState = uint32(begin[i]) - uint32(count)
		}
		t.symbols[i] = s
	}
}

// buildOne makes a table of one symbol, which takes no bits.
func (t *table) buildOne(only uint8, plain []uint8) {
	t.log = 0
	t.next[0] = 0
	t.symbols[only] = symbol{plain: plain[only]}
}

// first is the state that the last symbol leaves.
func (t *table) first(s *symbol) uint32 {
	out := (s.deltaBits + 1<<15) >> 16
	return uint32(t.next[((out<<16-s.deltaBits)>>out+s.deltaState)&(maxStates-1)])
}
