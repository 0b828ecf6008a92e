package publish

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

func TestSystem(t *testing.T) {
	dir := t.TempDir()
	system := func() string {
		t.Helper()
		got, err := ReadSystem(t.Context(), anyPath(dir), nix.StorePath{}, []nix.PathInfo{{}})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := system(); got != "" {
		t.Errorf("without a file: got %s", got)
	}
	for content, want := range map[string]string{
		"aarch64-linux":            "aarch64-linux",
		"riscv64-linux\n":          "riscv64-linux",
		"":                         "",
		"x86_64-linux; rm -rf /":   "",
		strings.Repeat("x", 70000): "",
	} {
		if err := os.WriteFile(filepath.Join(dir, "system"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := system(); got != want {
			t.Errorf("%.30q: got %s, want %s", content, got, want)
		}
	}
}

// anyPath is a source that has the same files for every path.
type anyPath string

func (dir anyPath) DumpNAR(_ context.Context, _ nix.StorePath, w io.Writer) error {
	return nar.Dump(w, string(dir))
}
