// Package regular opens files that somebody else has left: regular files only, and
// no larger than expected. A pipe, a device or a socket in place of a file would
// keep its reader waiting, or never end; it is refused without being opened for
// long.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Open opens a file below root for reading. It must be a regular one of at most
// max bytes; whoever reads it should still bound what is read, as it may grow.
// Errors are *fs.PathError.
func Open(root *os.Root, name string, max int64) (*os.File, error) {
	// Without O_NONBLOCK, opening a pipe waits for a writer.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.ENXIO) { // a socket
			err = &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
		}
		return nil, err
	}
	return check(f, name, max)
}

// OpenFile is Open for a file by its name.
func OpenFile(name string, max int64) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.ENXIO) {
			err = &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
		}
		return nil, err
	}
	return check(f, name, max)
}

var errNotRegular = errors.New("it is not a regular file")

func check(f *os.File, name string, max int64) (*os.File, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = &fs.PathError{Op: "open", Path: name, Err: unix.EISDIR}
	case !info.Mode().IsRegular():
		err = &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	case info.Size() > max:
		err = &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("it has %d bytes, and may have %d", info.Size(), max)}
	default:
		return f, nil
	}
	f.Close()
	return nil, err
}

// ReadFile reads a file below root as Open opens it.
func ReadFile(root *os.Root, name string, max int64) ([]byte, error) {
	f, err := Open(root, name, max)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f, name, max)
}

// ReadNamed reads a file by its name as OpenFile opens it.
func ReadNamed(name string, max int64) ([]byte, error) {
	f, err := OpenFile(name, max)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f, name, max)
}

// read reads a file that has at most max bytes, also while it grows.
func read(f *os.File, name string, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("it grew beyond %d bytes", max)}
	}
	return data, err
}
