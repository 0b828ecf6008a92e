package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// The garbage collector's roots of a host are links in one directory: for each
// generation that is of use, <pointer>-<number>, and rememberedRoot for the
// system to go back to. The name with the highest number is a second memory of
// it, and is never pruned.
const rememberedRoot = "remembered"

func rootName(name pointer.Name, number uint64) string {
	return string(name) + "-" + strconv.FormatUint(number, 10)
}

// addRoot makes a root, and returns when it is on disk.
func (c *Config) addRoot(name string, path nix.StorePath) error {
	err := os.MkdirAll(c.GCRoots, 0o755)
	if err == nil {
		err = replaceLink(filepath.Join(c.GCRoots, name), path.String())
	}
	if err != nil {
		return fmt.Errorf("keeping %s from the garbage collector: %w", path, err)
	}
	return nil
}

// roots are the generations of a pointer that have a root.
func (c *Config) roots(name pointer.Name) (map[uint64]nix.StorePath, error) {
	entries, err := os.ReadDir(c.GCRoots)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	roots := map[uint64]nix.StorePath{}
	for _, entry := range entries {
		digits, ok := strings.CutPrefix(entry.Name(), string(name)+"-")
		number, err := strconv.ParseUint(digits, 10, 64)
		if !ok || err != nil || rootName(name, number) != entry.Name() {
			continue
		}
		path, err := storePathOf(filepath.Join(c.GCRoots, entry.Name()))
		if err != nil {
			return nil, err
		}
		roots[number] = path
	}
	return roots, nil
}

// pruneRoots removes the roots of a pointer's generations whose paths are not
// among those of use, but for the one with the highest number.
func (c *Config) pruneRoots(name pointer.Name, use ...nix.StorePath) error {
	roots, err := c.roots(name)
	if err != nil {
		return err
	}
	var highest uint64
	for number := range roots {
		highest = max(highest, number)
	}
	used := map[nix.StorePath]bool{}
	for _, path := range use {
		used[path] = true
	}
	for number, path := range roots {
		if number == highest || used[path] {
			continue
		}
		if err := os.Remove(filepath.Join(c.GCRoots, rootName(name, number))); err != nil {
			return err
		}
	}
	return nil
}
