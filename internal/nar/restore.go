package nar

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Permissions are what the files of an archive get, which itself knows only
// which of them are executable.
type Permissions struct{ File, Executable, Directory uint32 }

var (
	// InStore is what Nix gives to everything in a store
	// (src/libstore/posix-fs-canonicalise.cc).
	InStore = Permissions{0o444, 0o555, 0o555}
	// Ordinary is what a person's files have, who may change and remove them.
	Ordinary = Permissions{0o644, 0o755, 0o755}
)

// Restore unpacks the archive that r holds to name below root, where there must
// be nothing yet. Everything gets these permissions, whatever the umask, and the
// modification time of what is in a store, one second, symlinks included. Blocks
// of zeros become holes.
//
// Whatever the archive holds, nothing outside root/name is touched. Errors of
// reading it are those of [Reader.Next]. After an error, part of the tree may
// be there, with directories that can be written to.
func Restore(r io.Reader, root *os.Root, name string, permissions Permissions) error {
	if base := filepath.Base(name); base == "." || base == ".." {
		return fmt.Errorf("unpacking an archive: %q doesn't name a file", name)
	}
	parent, err := root.Open(filepath.Dir(name))
	if err != nil {
		return fmt.Errorf("unpacking an archive: %w", err)
	}
	defer parent.Close()
	buffer := buffers.Get().(*bufio.Reader)
	defer buffers.Put(buffer)
	buffer.Reset(r)
	defer buffer.Reset(nil)
	u := unpacker{
		reader:      &Reader{r: buffer},
		permissions: permissions,
		top:         filepath.Join(root.Name(), name),
		parent:      descriptor(parent.Fd()),
	}
	defer u.abandon()
	return u.unpack()
}

// buffers are kept for the next archives: memory that is new to the process costs
// more than copying into it does.
var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}

// An unpacker creates files by one name in an open directory, never by a path,
// and opens only what it has just created: there is nothing to escape through.
// (An os.Root that walks down from the top for each file takes twice as long,
// and can't set the time of a symlink.)
type unpacker struct {
	reader      *Reader
	permissions Permissions
	top         string     // the path of what is being unpacked, for messages
	parent      descriptor // the directory that it is in
	granted     uint32     // permissions that files are known to get when created with them
	dirs        []openDir  // the directories that are being filled, outermost first
	file        sparseFile // that is being written; here, so as not to be allocated for each
}

type openDir struct {
	fd   descriptor
	path string // in the archive
}

func (u *unpacker) unpack() error {
	for {
		entry, err := u.reader.Next()
		if err == io.EOF {
			return u.leave(0)
		}
		if err != nil {
			return err
		}
		name, depth := filepath.Base(u.top), 0
		if entry.Path != "" {
			name = entry.Path[strings.LastIndexByte(entry.Path, '/')+1:]
			depth = strings.Count(entry.Path, "/") + 1
		}
		if err := u.leave(depth); err != nil {
			return err
		}
		switch entry.Type {
		case Regular:
			err = u.regular(name, entry)
		case Directory:
			err = u.directory(name, entry.Path)
		case Symlink:
			err = u.symlink(name, entry)
		}
		if err != nil {
			return err
		}
	}
}

// in is the directory that is being filled.
func (u *unpacker) in() descriptor {
	if len(u.dirs) == 0 {
		return u.parent
	}
	return u.dirs[len(u.dirs)-1].fd
}

func (u *unpacker) regular(name string, entry *Entry) error {
	mode := u.permissions.File
	if entry.Executable {
		mode = u.permissions.Executable
	}
	fd, err := openAt(u.in(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, mode)
	if err != nil {
		return u.failed("create", entry.Path, err)
	}
	u.file = sparseFile{fd: fd}
	_, err = u.reader.WriteTo(&u.file)
	if err == nil {
		err = u.file.finish()
	}
	if err != nil {
		fd.Close()
		if err == u.reader.err {
			return err
		}
		return u.failed("write", entry.Path, err)
	}
	// What may take permissions away, a umask or the ACL that directories pass on,
	// does so alike for all files of the tree.
	if mode&^u.granted == 0 {
		return u.finish(fd, entry.Path)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(fd), &stat); err == nil && stat.Mode&0o7777 == mode {
		u.granted |= mode
		return u.finish(fd, entry.Path)
	}
	return u.finishAs(fd, mode, entry.Path)
}

func (u *unpacker) directory(name, path string) error {
	if err := unix.Mkdirat(int(u.in()), name, 0o700); err != nil {
		return u.failed("mkdir", path, err)
	}
	fd, err := openAt(u.in(), name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return u.failed("open", path, err)
	}
	u.dirs = append(u.dirs, openDir{fd, path})
	return nil
}

func (u *unpacker) symlink(name string, entry *Entry) error {
	if err := unix.Symlinkat(entry.Target, int(u.in()), name); err != nil {
		return u.failed("symlink", entry.Path, err)
	}
	if err := unix.UtimesNanoAt(int(u.in()), name, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return u.failed("utimensat", entry.Path, err)
	}
	return nil
}

// leave finishes directories until only so many are being filled.
func (u *unpacker) leave(depth int) error {
	for len(u.dirs) > depth {
		d := u.dirs[len(u.dirs)-1]
		u.dirs = u.dirs[:len(u.dirs)-1]
		if err := u.finishAs(d.fd, u.permissions.Directory, d.path); err != nil {
			return err
		}
	}
	return nil
}

// abandon closes the directories that an error has left open.
func (u *unpacker) abandon() {
	for _, d := range u.dirs {
		d.fd.Close()
	}
}

// finishAs finishes a file or directory, which gets these permissions.
func (u *unpacker) finishAs(fd descriptor, mode uint32, path string) error {
	if err := unix.Fchmod(int(fd), mode); err != nil {
		fd.Close()
		return u.failed("chmod", path, err)
	}
	return u.finish(fd, path)
}

// finish closes a file or directory that has all it should have but its time.
func (u *unpacker) finish(fd descriptor, path string) error {
	if err := fd.setTimes(&times); err != nil {
		fd.Close()
		return u.failed("utimensat", path, err)
	}
	if err := fd.Close(); err != nil {
		return u.failed("close", path, err)
	}
	return nil
}

// times are that of reading, which stays as it is, and that of modification.
var times = [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 1}}

func (u *unpacker) failed(op, path string, err error) error {
	return &fs.PathError{Op: op, Path: filepath.Join(u.top, path), Err: err}
}
