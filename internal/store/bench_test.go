package store

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A large system: 5,000 paths with 20 references each.
func BenchmarkWriteDatabase(b *testing.B) {
	var infos []nix.PathInfo
	for i := range 5000 {
		path, err := nix.ParseBaseName(fmt.Sprintf("%032d-package-%d", i, i))
		if err != nil {
			b.Fatal(err)
		}
		info := nix.PathInfo{Path: path, NarSize: 1000}
		for j := max(0, i-20); j < i; j++ {
			info.References = append(info.References, infos[j].Path)
		}
		infos = append(infos, info)
	}
	for b.Loop() {
		if err := writeDatabase(b.Context(), filepath.Join(b.TempDir(), "db.sqlite"), infos, nil); err != nil {
			b.Fatal(err)
		}
	}
}
