package store

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nixos-closure/nixos-closure-resource/internal/ctxio"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Root is a store that is being made below a directory, such as the root
// directory of a container or of a machine to be: nix/store with the files of
// paths, and nix/var/nix/db with what Nix knows of them. When it is whole, Nix
// takes it for its own, there (--store DIR, NIX_REMOTE=DIR) or from inside.
type Root struct {
	dir   string
	store *os.Root // nix/store
}

// CreateRoot begins a store below dir, which is made if need be, and has no
// store in it yet.
func CreateRoot(dir string) (*Root, error) {
	store := filepath.Join(dir, nix.StoreDir)
	err := os.MkdirAll(filepath.Dir(store), 0o755)
	if err == nil {
		err = os.Mkdir(store, 0o755)
	}
	var root *os.Root
	if err == nil {
		root, err = os.OpenRoot(store)
	}
	if err != nil {
		return nil, fmt.Errorf("making a store in %s: %w", dir, err)
	}
	return &Root{dir, root}, nil
}

// Restore unpacks a path's NAR to its place. It checks the form of the archive;
// that it is the right one is for the caller to know, before Register.
// Different paths may be restored at once, from several goroutines. After an
// error, part of the path may be there.
func (r *Root) Restore(ctx context.Context, path nix.StorePath, archive io.Reader) error {
	if err := nar.Restore(ctxio.NewReader(ctx, archive), r.store, path.Base(), nar.InStore); err != nil {
		return fmt.Errorf("unpacking %s: %w", path, err)
	}
	return nil
}

// Register finishes the store by telling Nix what is in it. The infos are those
// of all paths that were restored, and no others; each path that one refers to
// is among them. The database appears at once, whole.
func (r *Root) Register(ctx context.Context, infos []nix.PathInfo) error {
	err := r.check(infos)
	if err == nil {
		err = r.register(ctx, infos)
	}
	if err != nil {
		return fmt.Errorf("registering the paths of the store in %s: %w", r.dir, err)
	}
	return nil
}

func (r *Root) register(ctx context.Context, infos []nix.PathInfo) error {
	dir := filepath.Join(r.dir, "nix", "var", "nix", "db")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	final := filepath.Join(dir, "db.sqlite")
	unfinished := final + ".new"
	if err := writeDatabase(ctx, unfinished, infos, r.outputs); err != nil {
		os.Remove(unfinished)
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "schema"), []byte(schemaVersion), 0o644); err != nil {
		return err
	}
	return os.Rename(unfinished, final)
}

// check returns an error unless the infos are those of what is there.
func (r *Root) check(infos []nix.PathInfo) error {
	dir, err := r.store.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	unknown := make(map[string]bool, len(names))
	for _, name := range names {
		unknown[name] = true
	}
	registered := make(map[nix.StorePath]bool, len(infos))
	for _, info := range infos {
		if !unknown[info.Path.Base()] {
			return fmt.Errorf("%s has not been restored, or is named twice", info.Path)
		}
		delete(unknown, info.Path.Base())
		registered[info.Path] = true
	}
	for name := range unknown {
		return fmt.Errorf("%s has been restored, but nothing is known of it", name)
	}
	for _, info := range infos {
		for _, reference := range info.References {
			if !registered[reference] {
				return fmt.Errorf("%s refers to %s, which is not there", info.Path, reference)
			}
		}
	}
	return nil
}
