package store

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/regular"
)

// maxSymlinks is Linux's own limit on symlinks that lead to symlinks.
const maxSymlinks = 40

// FindStorePath returns the store path that a symlink leads to, or that a file of
// one line holds, such as nix-build's result. The path itself need not be there.
func FindStorePath(name string) (nix.StorePath, error) {
	file := name
	for range maxSymlinks {
		info, err := os.Lstat(file)
		switch {
		case err != nil:
			return nix.StorePath{}, err
		case info.Mode().IsRegular():
			return readStorePath(file)
		case info.Mode()&fs.ModeSymlink == 0:
			return nix.StorePath{}, hint.With(fmt.Errorf("%s is a directory", file),
				"name a symlink to a store path, such as result, or a file that holds one")
		}
		target, err := os.Readlink(file)
		if err != nil {
			return nix.StorePath{}, err
		}
		if strings.HasPrefix(target, nix.StoreDir+"/") {
			path, err := nix.ParseStorePath(target)
			if err != nil {
				err = fmt.Errorf("%s leads to %s, which is not a store path but something in one", file, target)
			}
			return path, err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(file), target)
		}
		file = target
	}
	return nix.StorePath{}, fmt.Errorf("%s: %w", name, syscall.ELOOP)
}

// readStorePath returns the store path that a file holds, perhaps with a newline.
func readStorePath(file string) (nix.StorePath, error) {
	const longest = 4096 // bytes; a longer file holds no store path
	data, err := regular.ReadNamed(file, longest)
	if err != nil {
		return nix.StorePath{}, err
	}
	path, err := nix.ParseStorePath(strings.TrimSpace(string(data)))
	if err != nil {
		err = fmt.Errorf("%s holds something else than a store path: want one line, %s/<hash>-<name>", file, nix.StoreDir)
	}
	return path, err
}
