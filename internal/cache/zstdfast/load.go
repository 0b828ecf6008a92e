//go:build race || !(amd64 || arm64)

package zstdfast

import "encoding/binary"

// load32 and load64 read a number at b[i:], of which all must be there.
//
// These are for tests, which run with the race detector: a read beyond the end is
// a panic. Those of the programs don't look, and save an eighth of the time.
func load32(b []byte, i int) uint32 { return binary.LittleEndian.Uint32(b[i:]) }
func load64(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }
