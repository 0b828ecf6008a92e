package download

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// A need is how much room a get takes, as far as can be told beforehand. Where
// that is not much, it is too low rather than too high: nobody is turned away
// who has the room.
type need struct {
	bytes int64
	files int64
}

// smallFiles is how many files there are in each get, and in an image, besides
// those of the closure.
const smallFiles = 16

// needs is what a get takes of a closure, which the further ones are part of.
func (r *Request) needs(closure *cache.Closure) need {
	n := need{files: smallFiles}
	switch r.Format {
	case Rootfs:
		for i := range closure.Paths {
			n.bytes += unpackedSize(&closure.Paths[i])
			n.files++
		}
	case Files:
		n.bytes += unpackedSize(closure.RootInfo())
		n.files++
	case Cache:
		for i := range closure.Paths {
			n.bytes += closure.Paths[i].FileSize
			n.files += 2 // the NAR and the narinfo
		}
	case Archive:
		n.files++
		for i := range closure.Paths {
			n.bytes += packedSize(&closure.Paths[i])
		}
	}
	return n
}

// unpackedSize is about what a path takes on a disk: what isn't small and was
// compressed to less than a sixteenth is taken for holes, of which an image may
// have any number.
func unpackedSize(ni *cache.NarInfo) int64 {
	const bestRatio, small = 16, 1 << 20
	if ni.FileSize > 0 && ni.Compression != "none" && ni.NarSize > small {
		return min(ni.NarSize, bestRatio*ni.FileSize)
	}
	return ni.NarSize
}

// packedSize is less than what a path takes in an archive: how it was
// compressed in the cache says something of how it can be.
func packedSize(ni *cache.NarInfo) int64 {
	if ni.FileSize > 0 && ni.Compression != "none" {
		return ni.FileSize / 2
	}
	return ni.NarSize / 8
}

// hasRoom returns an error if the destination has less room than is needed.
func (d destination) hasRoom(n need) error {
	bytes, files, err := d.room()
	switch {
	case err != nil:
		return err
	case bytes < n.bytes:
		err = fmt.Errorf("too little room in %s: this takes about %s, and %s are free", d.dir, console.Bytes(n.bytes), console.Bytes(bytes))
	case files < n.files:
		err = fmt.Errorf("too little room in %s: this takes more than %d files, and its file system can have %d more", d.dir, n.files-1, files)
	}
	return hint.With(err, "make room on that file system, in Concourse the worker's; %s takes next to none", hint.Term("format: none"))
}

// boundless is what a file system has of what it doesn't count.
const boundless = 1<<63 - 1

// room is what is left for us on the destination's file system.
func (d destination) room() (bytes, files int64, err error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(d.dir, &disk); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: d.dir, Err: err}
	}
	bytes, files = boundless, boundless
	if disk.Blocks > 0 {
		free := disk.Bavail
		if os.Geteuid() == 0 {
			free = disk.Bfree // what is kept for root, too
		}
		bytes = int64(free) * disk.Frsize
	}
	if disk.Files > 0 {
		files = int64(disk.Ffree)
	}
	return bytes, files, nil
}

// explain adds to an error of a get what can be done about the destination's
// file system, if that was the reason.
func (d destination) explain(err error, n need) error {
	op := ""
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		op = path.Op
	} else if link := (*os.LinkError)(nil); errors.As(err, &link) {
		op = link.Op
	}
	is := func(errnos ...unix.Errno) bool {
		for _, errno := range errnos {
			if errors.Is(err, errno) {
				return true
			}
		}
		return false
	}
	switch {
	case is(unix.ENOSPC, unix.EDQUOT):
		return hint.With(err, "%s has too little room: this takes about %s and more than %d files, and what was done so far is gone again", d.dir, console.Bytes(n.bytes), n.files-1)
	case is(unix.ENAMETOOLONG):
		return hint.With(err, "the file system of %s can't have names as long as there are in the closure: use another, or %s", d.dir, hint.Term("format: archive"))
	case is(unix.EFBIG):
		return hint.With(err, "the file system of %s can't have files as large as there are in the closure: use another", d.dir)
	case strings.HasPrefix(op, "symlink") && is(unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS):
		return hint.With(err, "the file system of %s can't have symlinks: use another, or %s, which need none", d.dir, hint.Term("format: archive or cache"))
	case is(unix.EEXIST) && op != "":
		return hint.With(err, "nothing was there when this began: the file system of %s takes two names of the closure for one, as those do that don't tell A from a; use another, or %s", d.dir, hint.Term("format: archive"))
	}
	return err
}
