package download

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// GenerationFile is the name of the file that is written last: where it is, everything is.
const GenerationFile = "generation.json"

// A destination is the directory that a get fills. It is empty at first. In
// Concourse it is a mount point: it can't be replaced as a whole, so a get that
// fails has to clear it.
type destination struct{ dir string }

func openDestination(dir string) (destination, error) {
	if dir == "" {
		return destination{}, hint.With(errors.New("no destination was given"), "usage: in <empty directory>")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return destination{}, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return destination{}, fmt.Errorf("opening the destination: %w", err)
	}
	if len(entries) > 0 {
		return destination{}, hint.With(fmt.Errorf("the destination %s is not empty: it has %s", dir, entries[0].Name()),
			"Concourse gives each get an empty directory; by hand, make a new one")
	}
	return destination{dir}, nil
}

// path is where the named file belongs.
func (d destination) path(name string) string { return filepath.Join(d.dir, name) }

// unfinished is what something is called until it is whole and verified.
func unfinished(name string) string { return name + ".unfinished" }

// finish gives what was unfinished its name.
func (d destination) finish(name string) error {
	return os.Rename(d.path(unfinished(name)), d.path(name))
}

// write writes a small file.
func (d destination) write(name, content string) error {
	return os.WriteFile(d.path(name), []byte(content), 0o644)
}

// clear removes all that is in the destination. What stands for a whole result
// goes first, store paths, which are read-only, are made writable.
func (d destination) clear() error {
	err := os.RemoveAll(d.path(GenerationFile))
	d.walk(func(dir *os.Root, _ string, entry fs.DirEntry) error {
		if entry.IsDir() {
			dir.Chmod(entry.Name(), 0o755)
		}
		return nil
	})
	entries, readErr := os.ReadDir(d.dir)
	err = errors.Join(err, readErr)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(d.path(entry.Name())))
	}
	return err
}

// walk visits all that is in the destination, directories before what they
// hold: where it is, how it is called from the top, and what it is. Directories
// are opened one in the other, so that the name of a file may be of any bytes,
// and longer than the system takes one.
func (d destination) walk(visit func(dir *os.Root, name string, entry fs.DirEntry) error) error {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return walk(root, "", visit)
}

func walk(dir *os.Root, above string, visit func(dir *os.Root, name string, entry fs.DirEntry) error) error {
	file, err := dir.Open(".")
	if err != nil {
		return err
	}
	entries, err := file.ReadDir(-1)
	file.Close()
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := path.Join(above, entry.Name())
		if err := visit(dir, name, entry); err != nil {
			return err
		}
		if !entry.IsDir() {
			continue
		}
		inner, err := dir.OpenRoot(entry.Name())
		if err != nil {
			return err
		}
		err = walk(inner, name, visit)
		inner.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
