package store

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/nixos-closure/nixos-closure-resource/internal/ctxio"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Tree is the place, outside of any store, for the files of one path: name in
// the directory dir, where there is nothing yet. They belong to whoever makes
// them, and may be changed.
type Tree struct{ Dir, Name string }

// Restore unpacks the NAR of a path. What leads to other paths, leads nowhere.
// After an error, part of it may be there.
func (t Tree) Restore(ctx context.Context, path nix.StorePath, archive io.Reader) error {
	root, err := os.OpenRoot(t.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := nar.Restore(ctxio.NewReader(ctx, archive), root, t.Name, nar.Ordinary); err != nil {
		return fmt.Errorf("unpacking %s: %w", path, err)
	}
	return nil
}
