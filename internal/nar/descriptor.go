package nar

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A descriptor is an open file. It does what an [os.File] does without the
// poller and the finalizer, which cost more than reading or writing a small
// file does.
type descriptor int

// openAt opens the file called name in the directory dir; not what it points
// to, if it is a symlink.
func openAt(dir descriptor, name string, flags int, mode uint32) (descriptor, error) {
	for {
		fd, err := unix.Openat(int(dir), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return descriptor(fd), err
		}
	}
}

func (d descriptor) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(d), p)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (d descriptor) Write(p []byte) (written int, err error) {
	for written < len(p) {
		n, err := unix.Write(int(d), p[written:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// setTimes is futimens(2), without a lookup of the name.
func (d descriptor) setTimes(times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(d), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (d descriptor) Close() error { return unix.Close(int(d)) }
