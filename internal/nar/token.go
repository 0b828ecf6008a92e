package nar

import "encoding/binary"

// A token is written as its length (64 bits, little endian), its bytes, and
// zeros up to a multiple of eight. There is one way to write a token, so a run
// of tokens that must come next is compared as bytes.
var (
	tokensStart      = tokens("nix-archive-1")
	tokensNode       = tokens("(", "type")
	tokensRegular    = tokens("regular")
	tokensExecutable = tokens("executable", "")
	tokensContents   = tokens("contents")
	tokensDirectory  = tokens("directory")
	tokensSymlink    = tokens("symlink", "target")
	tokensEntry      = tokens("entry", "(", "name")
	tokensEntryNode  = tokens("node")
	tokensClose      = tokens(")")
	tokensCloseTwo   = tokens(")", ")")
)

func tokens(ss ...string) []byte {
	var b []byte
	for _, s := range ss {
		b = appendToken(b, s)
	}
	return b
}

func appendToken(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	b = append(b, s...)
	return append(b, zeros[:padding(int64(len(s)))]...)
}

var zeros [8]byte

// padding is how many zeros follow n bytes.
func padding(n int64) int { return int(-n & 7) }
