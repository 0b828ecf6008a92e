// Package imports opens closures that an earlier step of a pipeline has left
// in a directory: the /nix/store of one container is not visible in another.
// What it opens is
//
//   - a binary cache, as nix copy --to file://$PWD/cache leaves it,
//   - a store, as nix --store $PWD/store build leaves it,
//   - a tar of either, plain or compressed with gzip or zstd.
//
// No Nix is needed, and no other program.
//
// # What is promised
//
// Nothing outside what was named is read, whatever symlinks are in it, and
// nothing outside a temporary directory is written, whatever an archive says
// (archive.go). The closure is whole: each path that one refers to is there.
//
// What a closure is made of is the pipeline's own, so nobody's signature is
// asked for. That each path has the hash that it is said to have is found out
// by whoever reads its NAR: a binary cache's on the way, and a store's by the
// hash in Infos. That it refers to what it is said to refer to can't be found
// out, as in any Nix.
package imports

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/store"
)

// A Closure is one that was handed over.
type Closure struct {
	Root   nix.StorePath
	Infos  []nix.PathInfo // of the root and all that it references
	Source cache.Source   // of their NARs

	store    *store.Directory // that it is in, or nil
	unpacked string           // the directory that an archive was unpacked to, or ""
}

// Open opens the closure of a root in the file or directory called name. If
// root is zero, it is the only path there that nothing needs. Nobody may change
// what is there until the closure is closed.
func Open(ctx context.Context, name string, root nix.StorePath) (_ *Closure, err error) {
	c := &Closure{Root: root}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	dir, err := c.directory(ctx, name)
	if err != nil {
		return nil, err
	}
	for {
		switch {
		case isCache(dir):
			return c, c.openCache(ctx, dir)
		case store.IsDirectory(dir):
			return c, c.openStore(ctx, dir)
		}
		inner, err := onlyDirectory(dir)
		if err != nil {
			return nil, err
		}
		if inner == "" {
			return nil, hint.With(errors.New("it is neither a binary cache (there is no nix-cache-info) nor a store (there is no nix/var/nix/db/db.sqlite)"),
				"make it with nix copy --to file://$PWD/built/cache or nix --store $PWD/built/store build, and hand over just that, as a directory or as a tar")
		}
		dir = inner
	}
}

// directory is where the named closure lies, or is unpacked to.
func (c *Closure) directory(ctx context.Context, name string) (string, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return "", err
	case info.IsDir():
		return name, nil
	case !info.Mode().IsRegular():
		return "", errors.New("it is neither a directory nor an archive")
	}
	if c.unpacked, err = os.MkdirTemp("", "nixos-closure-archive-*"); err != nil {
		return "", err
	}
	return c.unpacked, unpackFile(ctx, name, c.unpacked)
}

// Close forgets the closure, and removes what was unpacked.
func (c *Closure) Close() error {
	var err error
	if c.store != nil {
		err = c.store.Close()
	}
	if c.unpacked != "" {
		err = errors.Join(err, os.RemoveAll(c.unpacked))
	}
	return err
}

func isCache(dir string) bool {
	info, err := os.Lstat(filepath.Join(dir, "nix-cache-info"))
	return err == nil && info.Mode().IsRegular()
}

// onlyDirectory is the directory in dir, if that is all there is.
func onlyDirectory(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || !entries[0].IsDir() {
		return "", err
	}
	return filepath.Join(dir, entries[0].Name()), nil
}

// openCache opens the closure in a binary cache.
func (c *Closure) openCache(ctx context.Context, dir string) error {
	from := cache.New(blob.NewDirectory(dir), cache.Config{})
	if err := c.chooseRoot(ctx, from); err != nil {
		return err
	}
	closure, err := from.Closure(ctx, c.Root)
	if err != nil {
		return hint.With(err, "nix copy copies a closure whole")
	}
	c.Infos, c.Source = closure.Infos(), from.Source(closure)
	return nil
}

// openStore opens the closure in a store.
func (c *Closure) openStore(ctx context.Context, dir string) (err error) {
	if c.store, err = store.OpenDirectory(dir); err != nil {
		return err
	}
	if err := c.chooseRoot(ctx, c.store); err != nil {
		return err
	}
	c.Source = c.store
	c.Infos, err = c.store.Closure(ctx, c.Root)
	return err
}

// chooseRoot finds out which closure is meant, unless that has been said.
func (c *Closure) chooseRoot(ctx context.Context, from interface {
	Roots(context.Context) ([]nix.StorePath, error)
}) error {
	if !c.Root.IsZero() {
		return nil
	}
	roots, err := from.Roots(ctx)
	if err != nil {
		return err
	}
	switch len(roots) {
	case 0:
		return errors.New("there is no closure in it")
	case 1:
		c.Root = roots[0]
		return nil
	}
	const shown = 5
	var names []string
	for _, root := range roots[:min(shown, len(roots))] {
		names = append(names, root.String())
	}
	if more := len(roots) - shown; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return hint.With(fmt.Errorf("there are %d closures in it: %s", len(roots), strings.Join(names, ", ")),
		"say by store_path which one: the path itself, or what leads to it, such as the link result that nix build leaves")
}
