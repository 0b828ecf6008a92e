package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// replaceFile makes a file have that content, whole or not at all, and returns
// when that is on disk.
func replaceFile(name string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-"+filepath.Base(name)+"-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(filepath.Dir(name))
}

// replaceLink makes a symlink lead to a target, and returns when that is on disk.
func replaceLink(name, target string) error {
	if found, err := os.Readlink(name); err == nil && found == target {
		return nil
	}
	temporary := filepath.Join(filepath.Dir(name), ".tmp-"+filepath.Base(name))
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncFileSystem writes out all of the file system that a directory is in. One
// that isn't there is in none.
func syncFileSystem(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// freeBytes is how much there is room for in the file system of a directory.
func freeBytes(dir string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(stat.Bavail) * stat.Bsize, nil
}

// storePathOf follows links from name until one leads into the store: a profile
// takes two steps. It is zero if there is no such link. Links are read, not
// followed by the kernel, so that the path need not be there.
func storePathOf(name string) (nix.StorePath, error) {
	for range 10 {
		target, err := os.Readlink(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nix.StorePath{}, nil
		}
		if err != nil {
			return nix.StorePath{}, err
		}
		if strings.HasPrefix(target, nix.StoreDir+"/") {
			return nix.ParseStorePath(target)
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(name), target)
		}
		name = target
	}
	return nix.StorePath{}, &fs.PathError{Op: "readlink", Path: name, Err: errors.New("it leads from link to link")}
}
