package imports

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/compression"
	"github.com/nixos-closure/nixos-closure-resource/internal/ctxio"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/regular"
)

// Whoever makes an archive may put anything into it. What holds here:
//
//   - A name has no "..", and a slash at its beginning is dropped, as tar does.
//   - What is there already is removed first, unless it is a directory: tar
//     appends what has changed, and the last one counts.
//   - A file is created by its last name in an open directory, which was
//     reached from the top through directories alone, never through symlinks;
//     each step is taken within an os.Root.
//   - There are files, directories, symlinks, which nothing here follows, and
//     hard links to files and symlinks that came before (Nix makes both, by
//     auto-optimise-store). Of permissions the owner's executable bit counts,
//     which is what a NAR knows.
//   - Sizes are counted before anything is written, and bounded by what the
//     disk has free; entries and names are bounded, too.
//
// tarfs.ExtractEntry of concourse/go-archive v1.0.1 is not used, even for
// entries that were checked: see docs/decisions.md.

const (
	maxEntries  = 4 << 20 // files, directories and links of an archive
	maxNameSize = 4096    // bytes of a whole name, as Linux has it
	maxTrailer  = 1 << 20 // bytes after the end; tar pads with 10 KiB or so
)

// A budget is what an archive may still take.
type budget struct {
	entries int64
	bytes   int64
}

// unpackFile unpacks the archive in a file to an empty directory, and to no
// more than half of what its disk has free.
func unpackFile(ctx context.Context, name, dir string) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return fmt.Errorf("looking how much space is left for unpacking: %w", err)
	}
	file, err := regular.OpenFile(name, math.MaxInt64)
	if err != nil {
		return err
	}
	defer file.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return unpack(ctx, file, root, budget{maxEntries, int64(disk.Bavail) * disk.Bsize / 2})
}

// unpack unpacks an archive to an empty directory.
func unpack(ctx context.Context, archive io.Reader, root *os.Root, budget budget) error {
	plain, err := decompress(ctxio.NewReader(ctx, archive))
	if err != nil {
		return err
	}
	defer plain.Close()
	u := &unpacker{root: root, in: root, dir: ".", left: budget}
	defer u.leave()
	entries := tar.NewReader(plain)
	for {
		header, err := entries.Next()
		switch {
		case err == io.EOF:
			return finish(plain)
		case errors.Is(err, tar.ErrHeader):
			return hint.With(errors.New("it is not a tar, nor one that was compressed with gzip, zstd, xz or bzip2"), "tar czf store.tgz store makes one")
		case err != nil:
			return unreadable(err)
		}
		if err := u.entry(header, entries); err != nil {
			return fmt.Errorf("unpacking the archive: %q: %w", header.Name, err)
		}
	}
}

func unreadable(err error) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeTooSmall) {
		return hint.With(fmt.Errorf("reading the archive: %w", err), "it was compressed with a window of more than 128 MiB: zstd's --long may be 27 at most")
	}
	return hint.With(fmt.Errorf("reading the archive: %w", err), "it was cut off or changed on the way, or is no archive at all")
}

// finish reads what comes after the archive: padding, and the checksum of gzip.
func finish(plain io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(plain, maxTrailer))
	if err != nil {
		return unreadable(err)
	}
	if n == maxTrailer {
		return errors.New("the archive goes on after its end")
	}
	return nil
}

// decompress looks at how r begins, and undoes its compression.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReader(r)
	start, err := buffered.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	name := "none"
	for _, magic := range []struct{ begin, compression string }{
		{"\x1f\x8b", "gzip"},
		{"\x28\xb5\x2f\xfd", "zstd"},
		{"BZh", "bzip2"},
		{"\xfd7zXZ\x00", "xz"},
	} {
		if bytes.HasPrefix(start, []byte(magic.begin)) {
			name = magic.compression
		}
	}
	// pzstd, and zstd with --seekable, begin with a frame to skip.
	if len(start) >= 4 && start[0]&0xf0 == 0x50 && bytes.Equal(start[1:4], []byte{0x2a, 0x4d, 0x18}) {
		name = "zstd"
	}
	return compression.NewReader(name, buffered)
}

// An unpacker creates the entries of an archive.
type unpacker struct {
	root *os.Root // where it all goes
	in   *os.Root // the directory of the last entry
	dir  string   // its name
	left budget
}

func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	switch header.Typeflag {
	case tar.TypeXGlobalHeader, gnuLabel:
		return u.spend(header.Size) // what git or somebody says of the whole archive
	case gnuMultivolume:
		return hint.With(errors.New("it goes on from another volume"), "join the volumes: tar -cf without --multi-volume makes one archive")
	}
	name, err := local(header.Name)
	if err != nil {
		return err
	}
	switch header.Typeflag {
	case gnuDumpDir:
		if err := u.spend(header.Size); err != nil {
			return err
		}
		return u.enter(name)
	case tar.TypeDir:
		return u.enter(name)
	}
	if err := u.enter(path.Dir(name)); err != nil {
		return err
	}
	if err := u.spend(header.Size); err != nil {
		return err
	}
	if header.Typeflag == tar.TypeLink && u.isItself(name, header.Linkname) {
		return nil
	}
	// What was appended again counts, as with tar.
	if info, err := u.in.Lstat(path.Base(name)); err == nil && !info.IsDir() {
		if err := u.in.Remove(path.Base(name)); err != nil {
			return err
		}
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		err = u.file(path.Base(name), header, content)
	case tar.TypeSymlink:
		err = u.in.Symlink(header.Linkname, path.Base(name))
	case tar.TypeLink:
		err = u.link(header.Linkname, name)
	default:
		err = fmt.Errorf("it is neither a file, a directory nor a link, but of type %q", header.Typeflag)
	}
	if errors.Is(err, fs.ErrExist) {
		return errors.New("it is there twice")
	}
	return err
}

// Types of entries that GNU tar has of its own (tar's manual, "Basic Tar Format").
const (
	gnuDumpDir     = 'D' // a directory, with a list of what was in it: --listed-incremental
	gnuMultivolume = 'M' // the rest of a file of another volume
	gnuLabel       = 'V' // the name of the archive: --label
)

// local returns the clean form of a name, unless it could lead elsewhere.
func local(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("it has no name")
	case len(name) > maxNameSize:
		return "", fmt.Errorf("its name is longer than %d bytes", maxNameSize)
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", errors.New("its name leads elsewhere, by ..")
	}
	return path.Clean(strings.TrimLeft(name, "/")), nil // absolute names are relative, as for tar
}

// spend counts an entry of that size.
func (u *unpacker) spend(size int64) error {
	if u.left.entries--; u.left.entries < 0 {
		return errors.New("the archive has too many entries")
	}
	if size > u.left.bytes {
		return hint.With(errors.New("unpacking it would take more than half of the free space"), "make room in the temporary directory, or hand over the directory itself")
	}
	u.left.bytes -= size
	return nil
}

// enter makes dir, and those on the way there, unless they are there already.
// The directory is then u.in.
func (u *unpacker) enter(dir string) error {
	if dir == u.dir {
		return nil
	}
	u.leave()
	if dir == "." {
		return nil
	}
	for name := range strings.SplitSeq(dir, "/") {
		if err := u.descend(name); err != nil {
			return err
		}
	}
	u.dir = dir
	return nil
}

// descend enters a directory of u.in.
func (u *unpacker) descend(name string) error {
	info, err := u.in.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := u.spend(0); err != nil {
			return err
		}
		if err := u.in.Mkdir(name, 0o700); err != nil {
			return err
		}
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("on the way there, %q is not a directory", name)
	}
	next, err := u.in.OpenRoot(name)
	if err != nil {
		return err
	}
	u.leave()
	u.in, u.dir = next, ""
	return nil
}

// leave goes back to the top.
func (u *unpacker) leave() {
	if u.in != u.root {
		u.in.Close()
	}
	u.in, u.dir = u.root, "."
}

func (u *unpacker) file(name string, header *tar.Header, content io.Reader) error {
	file, err := u.in.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600|header.FileInfo().Mode()&0o100)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// isItself says whether name, in u.in, is there and is what a hard link to
// linkname would make of it. GNU tar writes so if it is told of a file twice.
func (u *unpacker) isItself(name, linkname string) bool {
	target, err := local(linkname)
	if err != nil || target != name {
		return false
	}
	info, err := u.in.Lstat(path.Base(name))
	return err == nil && !info.IsDir()
}

// link makes a hard link to a file or symlink (never to where that leads) that
// is there.
func (u *unpacker) link(linkname, name string) error {
	target, err := local(linkname)
	if err == nil {
		err = u.enter(path.Dir(target))
	}
	if err != nil {
		return fmt.Errorf("it is a link to %q: %w", linkname, err)
	}
	if info, err := u.in.Lstat(path.Base(target)); err != nil || info.IsDir() {
		return fmt.Errorf("it is a link to %q, which is no file that came before", linkname)
	}
	return u.root.Link(target, name)
}
