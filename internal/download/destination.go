package download

import (
	"cmp"
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
type destination struct {
	dir   string
	spare []*os.File // descriptors that clear will need, however few are left then
}

// spareDescriptors is how many are kept for clear, which has two open at once, and
// for what else may happen meanwhile, such as a connection that is being given up.
const spareDescriptors = 4

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
	d := destination{dir: dir}
	for range spareDescriptors {
		file, err := os.Open(dir)
		if err != nil {
			d.close()
			return destination{}, fmt.Errorf("opening the destination: %w", err)
		}
		d.spare = append(d.spare, file)
	}
	return d, nil
}

// close gives up what the destination holds, but not what is in it.
func (d destination) close() {
	for _, file := range d.spare {
		file.Close()
	}
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

// clear removes all that is in the destination, and closes it. What stands for a
// whole result goes first; store paths, which are read-only, are made writable.
//
// A tree may be deeper than there are descriptors left, and its names longer than
// the system takes a path. So directories are moved to the top before they are
// emptied, and two descriptors will do for any tree.
func (d destination) clear() error {
	d.close()
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var failure error // the first
	must := func(err error) bool {
		failure = cmp.Or(failure, err)
		return err == nil
	}
	if err := root.Remove(GenerationFile); !errors.Is(err, fs.ErrNotExist) {
		must(err)
	}
	moved := 0
	for directories := []string{"."}; len(directories) > 0; {
		dir := directories[len(directories)-1]
		directories = directories[:len(directories)-1]
		entries, err := readDir(root, dir)
		must(err)
		for _, entry := range entries {
			name := path.Join(dir, entry.Name())
			if !entry.IsDir() {
				must(root.Remove(name))
				continue
			}
			must(root.Chmod(name, 0o700))
			if dir != "." {
				moved++
				top := fmt.Sprintf(".clearing-%d", moved)
				if !must(root.Rename(name, top)) {
					continue
				}
				name = top
			}
			directories = append(directories, name)
		}
		if dir != "." {
			must(root.Remove(dir))
		}
	}
	return failure
}

// readDir lists a directory of dir.
func readDir(dir *os.Root, name string) ([]fs.DirEntry, error) {
	file, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.ReadDir(-1)
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
	entries, err := readDir(dir, ".")
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
