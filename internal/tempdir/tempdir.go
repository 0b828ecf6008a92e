// Package tempdir makes directories for what a program needs while it runs, in
// the machine's temporary directory.
//
// A program that is killed can't remove what it has made, so the next one does:
// each directory is locked as long as its maker lives, and one that isn't locked
// is nobody's. Only directories of the same user and with this project's name are
// looked at. (Where locks aren't possible, as on some network file systems,
// nothing is removed but one's own.)
package tempdir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// prefix is what the names of all these directories begin with.
const prefix = "nixos-closure-tmp-"

// A Dir is a directory that nobody else looks into, until it is removed.
type Dir struct {
	path string
	lock *os.File // the directory itself
}

var sweepOnce sync.Once

// New makes a directory, of mode 0700, with the purpose in its name. The first
// call of a process also removes what others have left that were killed.
func New(purpose string) (*Dir, error) {
	sweepOnce.Do(func() { sweep(os.TempDir()) })
	return newIn(os.TempDir(), purpose)
}

func newIn(parent, purpose string) (*Dir, error) {
	for {
		path, err := os.MkdirTemp(parent, prefix+purpose+"-")
		if err != nil {
			return nil, err
		}
		lock, locked := lockDir(path, unix.LOCK_EX)
		if locked {
			return &Dir{path, lock}, nil
		}
		if _, err := os.Lstat(path); err == nil { // there are no locks here
			return &Dir{path, nil}, nil
		}
		// Somebody has taken it for a left one before it was locked.
	}
}

// Path is where the directory is.
func (d *Dir) Path() string { return d.path }

// Remove removes the directory and all that is in it. It does nothing to nil.
func (d *Dir) Remove() error {
	if d == nil {
		return nil
	}
	err := os.RemoveAll(d.path)
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// lockDir opens and locks a directory, if it is there when it is locked.
func lockDir(path string, how int) (_ *os.File, locked bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	dir := os.NewFile(uintptr(fd), path)
	err = retry(func() error { return unix.Flock(fd, how) })
	var stat unix.Stat_t
	if err == nil {
		err = unix.Lstat(path, &stat) // who had the lock may have removed it
	}
	if err != nil || stat.Uid != uint32(os.Geteuid()) {
		dir.Close()
		return nil, false
	}
	return dir, true
}

// retry calls a system call until no signal comes in between.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// sweep removes the directories in parent that nobody uses any more. What can't
// be removed stays.
func sweep(parent string) {
	root, err := os.OpenRoot(parent)
	if err != nil {
		return
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if lock, locked := lockDir(filepath.Join(parent, name), unix.LOCK_EX|unix.LOCK_NB); locked {
			root.RemoveAll(name)
			lock.Close()
		}
	}
}
