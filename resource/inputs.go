package resource

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/download"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
	"github.com/nixos-closure/nixos-closure-resource/internal/regular"
)

// inputs are the directories that Concourse gives to a put: artifacts of
// earlier steps, by their names. Params name what is in them by relative paths.
// Nothing outside is read, symlinks included; a symlink into the Nix store is
// read, not followed.
type inputs struct {
	dir  string
	root *os.Root
}

func openInputs(dir string) (*inputs, error) {
	if dir == "" {
		return nil, hint.With(errors.New("no sources were given"), "usage: out <directory of inputs>")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the sources: %w", err)
	}
	return &inputs{dir, root}, nil
}

func (in *inputs) Close() error { return in.root.Close() }

// path returns where the named file or directory is, having looked that it is
// there.
func (in *inputs) path(name string) (string, error) {
	if err := in.check(name); err != nil {
		return "", err
	}
	if _, err := in.root.Stat(name); err != nil {
		return "", in.explain(name, err)
	}
	return filepath.Join(in.dir, name), nil
}

// storePath returns the store path that a symlink leads to, or that a file
// holds.
func (in *inputs) storePath(name string) (nix.StorePath, error) {
	file := name
	for range maxSymlinks {
		if err := in.check(file); err != nil {
			return nix.StorePath{}, err
		}
		info, err := in.root.Lstat(file)
		switch {
		case err != nil:
			return nix.StorePath{}, in.explain(file, err)
		case info.Mode().IsRegular():
			return in.heldPath(file)
		case info.Mode()&fs.ModeSymlink == 0:
			return nix.StorePath{}, hint.With(fmt.Errorf("%s is a directory", file),
				"name a symlink to a store path in it, such as %s/result, or a file that holds one", file)
		}
		target, err := in.root.Readlink(file)
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
		if filepath.IsAbs(target) {
			return nix.StorePath{}, fmt.Errorf("%s leads to %s, which is neither in the sources nor a store path", file, target)
		}
		file = filepath.Join(filepath.Dir(file), target)
	}
	return nix.StorePath{}, fmt.Errorf("%s: %w", name, syscall.ELOOP)
}

// maxSymlinks is Linux's own limit on symlinks that lead to symlinks.
const maxSymlinks = 40

// heldPath returns the store path that a file holds, perhaps with a newline.
func (in *inputs) heldPath(file string) (nix.StorePath, error) {
	line, err := in.line(file)
	if err != nil {
		return nix.StorePath{}, err
	}
	path, err := nix.ParseStorePath(line)
	if err != nil {
		err = fmt.Errorf("%s holds something else than a store path: want one line, %s/<hash>-<name>", file, nix.StoreDir)
	}
	return path, err
}

// ifGeneration returns the generation that a condition names: by its number, 0
// for none at all, or by the directory of a get. "" is no condition.
func (in *inputs) ifGeneration(condition string) (*uint64, error) {
	if condition == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(condition, 10, 64)
	if err != nil {
		n, err = in.generation(condition)
	}
	if err != nil {
		return nil, fmt.Errorf("params.if_generation: %w", err)
	}
	return &n, nil
}

// generation returns the number of the generation that a get has left in the
// named directory.
func (in *inputs) generation(name string) (uint64, error) {
	if err := in.check(name); err != nil {
		return 0, err
	}
	line, err := in.line(filepath.Join(name, "generation"))
	if err != nil {
		return 0, err
	}
	n, err := parseGeneration(line)
	if err != nil {
		err = fmt.Errorf("%s/generation: %w", name, err)
	}
	return n, err
}

// line returns what a file of one line holds.
func (in *inputs) line(name string) (string, error) {
	const longest = 4096 // bytes; a longer one holds no store path, name or number
	data, err := regular.ReadFile(in.root, name, longest)
	if err != nil {
		return "", in.explain(name, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// promotion returns the generation that a get has left in the named directory, as
// what is to be promoted, with the cache that it has left there, too. Nothing is
// verified yet.
func (in *inputs) promotion(dir string) (c publish.Promotion, err error) {
	defer func() {
		err = hint.With(err, "want the directory of a get of another pointer")
	}()
	if err := in.check(dir); err != nil {
		return c, err
	}
	line, err := in.line(filepath.Join(dir, "pointer"))
	if err != nil {
		return c, err
	}
	if c.Pointer, err = pointer.ParseName(line); err != nil {
		return c, fmt.Errorf("%s/pointer: %w", dir, err)
	}
	file := filepath.Join(dir, download.GenerationFile)
	const longest = 16 * pointer.MaxEntry // indented, and by later versions
	data, err := regular.ReadFile(in.root, file, longest)
	if err != nil {
		return c, in.explain(file, err)
	}
	if err := json.Unmarshal(data, &c.Generation); err != nil {
		return c, fmt.Errorf("%s: %w", file, err)
	}
	if cacheDir, err := in.path(filepath.Join(dir, "cache")); err == nil {
		c.CacheDir = cacheDir
	}
	return c, nil
}

// flake returns where a flake is, as Nix wants to hear it, having looked that it
// is there.
func (in *inputs) flake(r build.FlakeRef) (string, error) {
	source, err := in.source(r)
	if err != nil || r.URL != "" {
		return source, err
	}
	dir := r.FlakeDir()
	if _, err := in.path(filepath.Join(dir, "flake.nix")); err != nil {
		if elsewhere, _ := fs.Glob(in.root.FS(), filepath.ToSlash(filepath.Join(dir, "*", "flake.nix"))); len(elsewhere) > 0 {
			err = hint.With(err, "there is one in %s", filepath.Dir(elsewhere[0]))
		}
		return "", err
	}
	return source, nil
}

// source is flake for what needn't be one: an input may be any directory.
func (in *inputs) source(r build.FlakeRef) (string, error) {
	if r.URL != "" {
		return r.URL, nil
	}
	dir, err := in.path(r.Dir)
	if input, _, _ := strings.Cut(r.Dir, "/"); err != nil && r.Host != "" && !slices.Contains(in.names("."), input) {
		return "", hint.With(fmt.Errorf("this put has no input %s", input),
			"Concourse looks for the input %s#%s, and there is none: give the put inputs: [%s]", r.Dir, r.Host, input)
	}
	if err != nil {
		return "", err
	}
	// Git and Nix want it without symlinks; none leads out of the sources.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	return r.Resolved(dir), nil
}

// check refuses names that lead out of the sources.
func (in *inputs) check(name string) error {
	if filepath.IsLocal(name) {
		return nil
	}
	return hint.With(fmt.Errorf("%s is not in the sources", name), "name it by its input and its path in there: config/default.nix")
}

// explain words the error of opening a file of the inputs for a person.
func (in *inputs) explain(name string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		var failed *fs.PathError
		if errors.As(err, &failed) {
			err = failed.Err
		}
		if err.Error() == "path escapes from parent" { // os.Root has no value for it
			err = errors.New("a symlink leads out of the sources there")
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	input, inside, _ := strings.Cut(filepath.ToSlash(filepath.Clean(name)), "/")
	if _, err := in.root.Lstat(input); err != nil {
		return hint.With(fmt.Errorf("%s: this put has no input %s (its inputs: %s)", name, input, cmp.Or(strings.Join(in.names("."), ", "), "none")),
			"a put sees only those inputs that begin a string of its params, or those that it lists: inputs: [%s]", input)
	}
	err = fmt.Errorf("%s: there is no %s in the input %s", name, inside, input)
	dir := filepath.Dir(name)
	if near := hint.Nearest(filepath.Base(name), in.names(dir)); near != "" {
		return hint.With(err, "did you mean %s?", filepath.Join(dir, near))
	}
	return err
}

// names lists what is in a directory of the inputs.
func (in *inputs) names(dir string) []string {
	entries, _ := fs.ReadDir(in.root.FS(), filepath.ToSlash(dir))
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names
}
