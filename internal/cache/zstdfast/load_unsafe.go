//go:build !race && (amd64 || arm64)

package zstdfast

import "unsafe"

// load32 and load64 read a number at b[i:], of which all must be there. It isn't
// looked at whether it is: load.go has the same for tests, which do. Both machines
// are little-endian, as numbers are meant to be, and don't care for alignment.
func load32(b []byte, i int) uint32 {
	return *(*uint32)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i))
}

func load64(b []byte, i int) uint64 {
	return *(*uint64)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i))
}
