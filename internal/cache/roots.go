package cache

import (
	"context"
	"fmt"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Roots lists the paths, sorted, that no other path of the cache refers to.
// Derivations are not among them. It reads every narinfo and verifies none; the
// store must be one that lists.
func (c *Cache) Roots(ctx context.Context) ([]nix.StorePath, error) {
	var paths []nix.StorePath
	referred := map[nix.StorePath]bool{}
	for object, err := range c.store.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		hash, ok := strings.CutSuffix(object.Key, ".narinfo")
		if !ok || nix.ValidateHashPart(hash) != nil {
			continue
		}
		text, _, err := blob.ReadAll(ctx, c.store, object.Key, maxNarInfoSize, blob.GetOptions{})
		if err != nil {
			return nil, err
		}
		ni, err := ParseNarInfo(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s in %s is not valid: %w", object.Key, c, err)
		}
		if !strings.HasSuffix(ni.Path.Name(), ".drv") {
			paths = append(paths, ni.Path)
		}
		for _, ref := range ni.References {
			referred[ref] = referred[ref] || ref != ni.Path
		}
	}
	var roots []nix.StorePath
	for _, path := range nix.SortPaths(paths) {
		if !referred[path] {
			roots = append(roots, path)
		}
	}
	return roots, nil
}
