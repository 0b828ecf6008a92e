package store

import (
	"fmt"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// StorePaths is the file store-paths of nixpkgs' closureInfo: the paths of a
// closure, sorted, one on a line.
func StorePaths(infos []nix.PathInfo) string {
	var b strings.Builder
	for _, info := range nix.SortInfos(infos) {
		fmt.Fprintln(&b, info.Path)
	}
	return b.String()
}

// Registration is the file registration of nixpkgs' closureInfo, by which
// nix-store --load-db makes the paths of a closure valid in a store that has
// their files: for each, on lines of their own, path, NarHash, NarSize, an empty
// deriver, the number of references, and the references.
func Registration(infos []nix.PathInfo) string {
	var b strings.Builder
	for _, info := range nix.SortInfos(infos) {
		fmt.Fprintf(&b, "%s\n%s\n%d\n\n%d\n", info.Path, info.NarHash, info.NarSize, len(info.References))
		for _, ref := range info.References {
			fmt.Fprintln(&b, ref)
		}
	}
	return b.String()
}
