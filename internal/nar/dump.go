package nar

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Dump writes the file, directory or symlink at path to w as an archive, byte
// for byte as `nix-store --dump` does: of the permissions the owner's
// executable bit counts, of times and owners nothing. No symlink is followed.
//
// A file that grows or shrinks while it is read is an error, and so is one of
// another kind or deeper than an archive may be. After an error, what w has
// got is not an archive.
func Dump(w io.Writer, path string) error {
	path = filepath.Clean(path)
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	d := dumper{bufio.NewWriterSize(w, bufferSize)}
	d.w.Write(tokensStart)
	if err := d.node(unix.AT_FDCWD, path, path, info.Mode().Type(), 0); err != nil {
		return err
	}
	return d.w.Flush()
}

// A dumper writes nodes. Its buffer remembers errors: those of writing tokens
// come back from the next contents, or from the flush at the end.
type dumper struct {
	w *bufio.Writer
}

// node writes the file called name in the directory dir. The path is the whole
// one, for messages.
func (d *dumper) node(dir descriptor, name, path string, typ fs.FileMode, depth int) (err error) {
	if depth >= maxDepth {
		return fmt.Errorf("%s is deeper than the %d levels that a NAR may have", path, maxDepth)
	}
	d.w.Write(tokensNode)
	switch typ {
	case 0:
		err = d.regular(dir, name, path)
	case fs.ModeDir:
		err = d.directory(dir, name, path, depth)
	case fs.ModeSymlink:
		err = d.symlink(dir, name, path)
	default:
		err = fmt.Errorf("%s is not a regular file, a directory or a symlink, which is all that a NAR can hold", path)
	}
	d.w.Write(tokensClose)
	return err
}

func (d *dumper) regular(dir descriptor, name, path string) error {
	// Should it be a FIFO by now, opening it doesn't block.
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer fd.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(fd), &stat); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%s was replaced while it was read", path)
	}

	d.w.Write(tokensRegular)
	if stat.Mode&unix.S_IXUSR != 0 {
		d.w.Write(tokensExecutable)
	}
	d.w.Write(tokensContents)
	d.w.Write(binary.LittleEndian.AppendUint64(d.w.AvailableBuffer(), uint64(stat.Size)))
	n, err := d.w.ReadFrom(io.LimitReader(fd, stat.Size+1)) // straight into the buffer
	switch {
	case err != nil:
		return fmt.Errorf("archiving %s: %w", path, err)
	case n > stat.Size:
		return fmt.Errorf("%s grew beyond its %d bytes while it was read", path, stat.Size)
	case n < stat.Size:
		return fmt.Errorf("%s shrank from %d to %d bytes while it was read", path, stat.Size, n)
	}
	d.w.Write(zeros[:padding(n)])
	return nil
}

func (d *dumper) directory(dir descriptor, name, path string, depth int) error {
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	d.w.Write(tokensDirectory)
	for _, entry := range entries {
		name := entry.Name()
		d.w.Write(tokensEntry)
		d.token(name)
		d.w.Write(tokensEntryNode)
		if err := d.node(fd, name, path+"/"+name, entry.Type(), depth+1); err != nil {
			return err
		}
		d.w.Write(tokensClose)
	}
	return nil
}

func (d *dumper) symlink(dir descriptor, name, path string) error {
	var target [maxTarget + 1]byte
	n, err := unix.Readlinkat(int(dir), name, target[:])
	if err != nil {
		return &fs.PathError{Op: "readlink", Path: path, Err: err}
	}
	if n > maxTarget {
		return fmt.Errorf("%s has a target longer than the %d bytes that a NAR can hold", path, maxTarget)
	}
	d.w.Write(tokensSymlink)
	d.token(string(target[:n]))
	return nil
}

func (d *dumper) token(s string) { d.w.Write(appendToken(d.w.AvailableBuffer(), s)) }
