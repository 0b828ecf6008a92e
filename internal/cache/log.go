package cache

import (
	"context"
	"fmt"
	"io"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// PutLog stores the log of a derivation's build, a text, where nix log finds it.
// One of an earlier build is replaced.
func (c *Cache) PutLog(ctx context.Context, derivation nix.StorePath, text io.Reader) error {
	_, err := c.store.Put(ctx, "log/"+derivation.Base(), text, blob.PutOptions{ContentType: "text/plain; charset=utf-8", CacheControl: volatile})
	if err != nil {
		err = fmt.Errorf("storing the log of %s: %w", derivation, err)
	}
	return err
}
