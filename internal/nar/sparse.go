package nar

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// blockSize is the unit of holes: a run of so many zeros, in line with the
// beginning of the file, takes no room on the disk. It is the block of nearly
// every file system.
const blockSize = 4096

// A sparseFile takes the contents of a file that was just created. Archives
// know nothing of holes; where a whole block is zero, it leaves one, which reads
// the same. (On file systems without holes, the kernel fills them.)
type sparseFile struct {
	fd   descriptor
	size int64 // of what was written, holes included
	hole bool  // it ends in one
}

// Write writes the next bytes. Until finish, a hole at the end may not be part
// of the file.
func (f *sparseFile) Write(p []byte) (written int, err error) {
	for written < len(p) {
		n, zero := sameKind(p[written:])
		if zero {
			_, err = unix.Seek(int(f.fd), int64(n), unix.SEEK_CUR)
		} else {
			n, err = f.fd.Write(p[written : written+n])
		}
		written += n
		f.size += int64(n)
		if err != nil {
			return written, err
		}
		f.hole = zero
	}
	return written, nil
}

// finish gives the file its size.
func (f *sparseFile) finish() error {
	if !f.hole {
		return nil
	}
	for {
		if err := unix.Ftruncate(int(f.fd), f.size); err != unix.EINTR {
			return err
		}
	}
}

// sameKind returns how many bytes at the beginning of p are blocks that are all
// zero, or all not.
func sameKind(p []byte) (n int, zero bool) {
	for n < len(p) {
		block := p[n:min(n+blockSize, len(p))]
		if z := bytes.Equal(block, zeroBlock[:len(block)]); n == 0 {
			zero = z
		} else if z != zero {
			break
		}
		n += len(block)
	}
	return n, zero
}

var zeroBlock [blockSize]byte
