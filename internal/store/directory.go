package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/ctxio"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/regular"
	"github.com/nixos-closure/nixos-closure-resource/internal/tempdir"
)

// A Directory is a store below a directory that somebody else has made, with
// nix --store DIR or as a [Root]. No Nix is needed to read it, and it need not
// be writable. What its database says is not to be believed: the hash of each
// path is to be held against its NAR. The database itself is read by a child
// process; see child.go.
type Directory struct {
	dir  string       // without nix/store
	copy *tempdir.Dir // that the database was copied to, below copyDir
}

// IsDirectory says whether a store lies below dir.
func IsDirectory(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, databaseFile))
	return err == nil
}

const databaseFile = "nix/var/nix/db/db.sqlite"

// maxDatabase is the size of the largest database that is read, in bytes. (One
// of a hundred thousand paths has 0.1 GB.)
const maxDatabase = 1 << 30

// OpenDirectory opens the store below dir. Symlinks that lead out of dir are
// not followed. Nobody may write to the store until it is closed.
func OpenDirectory(dir string) (_ *Directory, err error) {
	d := &Directory{dir: dir}
	if err := d.copyDatabase(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store in %s: %w", dir, err), d.Close())
	}
	return d, nil
}

// copyDatabase copies the database to where it can be opened: a Nix that is
// gone leaves part of it, or all, in its log, which SQLite reads only where it
// may write.
func (d *Directory) copyDatabase() error {
	root, err := os.OpenRoot(d.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if info, err := root.Stat("nix/store"); err != nil {
		return err
	} else if !info.IsDir() {
		return errors.New("nix/store is not a directory")
	}
	const longest = 100 // bytes of the schema's number
	schema, err := regular.ReadFile(root, "nix/var/nix/db/schema", longest)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(schema)); got != schemaVersion {
		return fmt.Errorf("its database has schema %q, and %s is what is known", got, schemaVersion)
	}
	if d.copy, err = tempdir.New("db"); err != nil {
		return err
	}
	if err := os.Mkdir(d.copyDir(), 0o700); err != nil {
		return err
	}
	for _, suffix := range []string{"", "-wal", "-journal"} {
		err := copyFile(root, databaseFile+suffix, filepath.Join(d.copyDir(), "db.sqlite"+suffix))
		if err != nil && !(suffix != "" && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// copyDir is the directory that the child gets for its own, the user who it
// becomes included.
func (d *Directory) copyDir() string { return filepath.Join(d.copy.Path(), "db") }

func copyFile(root *os.Root, name, to string) error {
	from, err := regular.Open(root, name, maxDatabase)
	if err != nil {
		return err
	}
	defer from.Close()
	file, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, io.LimitReader(from, maxDatabase))
	return errors.Join(err, file.Close())
}

// Close forgets the store.
func (d *Directory) Close() error {
	return d.copy.Remove()
}

// Roots lists the paths, sorted, that nothing in the store needs: no other path
// refers to them, nor, if they were built here, to the derivation that makes
// them. Derivations are not among them.
func (d *Directory) Roots(ctx context.Context) ([]nix.StorePath, error) {
	var roots []nix.StorePath
	err := d.ask(ctx, func(r row) error {
		root, err := nix.ParseStorePath(r.Path)
		roots = append(roots, root)
		return err
	}, askRoots)
	if err != nil {
		return nil, d.unreadable(err)
	}
	return roots, nil
}

// Closure returns what the database says of the path and of all that it
// references, sorted by path. All of their files are there.
func (d *Directory) Closure(ctx context.Context, root nix.StorePath) ([]nix.PathInfo, error) {
	var infos []nix.PathInfo
	err := d.ask(ctx, func(r row) error {
		info, err := r.info()
		infos = append(infos, info)
		return err
	}, askClosure, root.String())
	if err != nil {
		return nil, d.unreadable(err)
	}
	for _, info := range infos {
		if _, err := os.Lstat(d.realPath(info.Path)); err != nil {
			return nil, hint.With(fmt.Errorf("%s is registered in the store in %s, but its files are not there: %w", info.Path, d.dir, err),
				"hand over the whole store")
		}
	}
	if len(infos) == 0 {
		return nil, fmt.Errorf("%s is not in the store in %s", root, d.dir)
	}
	return infos, nil
}

// info is what a row says of a path.
func (r row) info() (info nix.PathInfo, err error) {
	if info.Path, err = nix.ParseStorePath(r.Path); err != nil {
		return info, err
	}
	if info.NarHash, err = nix.ParseHash(r.Hash); err != nil {
		return info, fmt.Errorf("%s: %w", r.Path, err)
	}
	if info.NarSize = r.NarSize; info.NarSize <= 0 || info.NarSize > nix.MaxNarSize {
		return info, fmt.Errorf("the size of %s is not known: it is said to have %d bytes", r.Path, r.NarSize)
	}
	if r.Deriver != "" {
		if info.Deriver, err = nix.ParseStorePath(r.Deriver); err != nil {
			return info, fmt.Errorf("the deriver of %s: %w", r.Path, err)
		}
	}
	for text := range strings.FieldsSeq(r.Sigs) {
		sig, err := nix.ParseSignature(text)
		if err != nil {
			return info, fmt.Errorf("a signature of %s: %w", r.Path, err)
		}
		info.Signatures = append(info.Signatures, sig)
	}
	if info.CA, err = nix.ParseContentAddress(r.CA); err != nil {
		return info, fmt.Errorf("the content address of %s: %w", r.Path, err)
	}
	for text := range strings.FieldsSeq(r.References) {
		if text == unregistered {
			return info, fmt.Errorf("%s refers to a path that is not registered", r.Path)
		}
		reference, err := nix.ParseStorePath(text)
		if err != nil {
			return info, fmt.Errorf("a reference of %s: %w", r.Path, err)
		}
		info.References = append(info.References, reference)
	}
	info.References = nix.SortPaths(info.References)
	return info, nil
}

// unreadable is the error of reading the database, or of what stands in it.
func (d *Directory) unreadable(err error) error {
	return fmt.Errorf("the database of the store in %s: %w", d.dir, err)
}

func (d *Directory) realPath(path nix.StorePath) string {
	return filepath.Join(d.dir, path.String())
}

// DumpNAR writes the NAR of a path.
func (d *Directory) DumpNAR(ctx context.Context, path nix.StorePath, w io.Writer) error {
	if err := nar.Dump(ctxio.NewWriter(ctx, w), d.realPath(path)); err != nil {
		return fmt.Errorf("reading %s from the store in %s: %w", path, d.dir, err)
	}
	return nil
}
