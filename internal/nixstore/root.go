package nixstore

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Root is a store that we write ourselves, without Nix: below a directory,
// with a database in which its paths are valid, such that stock Nix takes it for
// one of its own (nix --store DIR) and a container can have DIR as its root.
type Root struct {
	dir string
}

// CreateRoot begins a store below dir, which is made if need be.
func CreateRoot(dir string) (*Root, error) {
	r := &Root{dir}
	for _, d := range []string{r.storeDir(), r.databaseDir()} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("making a store in %s: %w", dir, err)
		}
	}
	return r, nil
}

func (r *Root) storeDir() string    { return filepath.Join(r.dir, nix.StoreDir) }
func (r *Root) databaseDir() string { return filepath.Join(r.dir, "nix/var/nix/db") }

// Restore unpacks the NAR of a path, which must not be there yet. It may be
// called from several goroutines. The path isn't valid before it is registered,
// and after an error what is there of it is to be thrown away.
func (r *Root) Restore(ctx context.Context, path nix.StorePath, archive io.Reader) error {
	store, err := os.OpenRoot(r.storeDir())
	if err != nil {
		return err
	}
	defer store.Close()
	if err := nar.Restore(withContext{ctx, archive}, store, path.Base()); err != nil {
		return fmt.Errorf("unpacking %s: %w", path, err)
	}
	return nil
}

// withContext reads until the context is done.
type withContext struct {
	ctx context.Context
	io.Reader
}

func (r withContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
