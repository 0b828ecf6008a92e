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
	here := system()
	if !strings.HasSuffix(here, "-linux") || here == "amd64-linux" || here == "arm64-linux" {
		t.Errorf("without a file: got %s, which Nix doesn't know", here)
	}
	for content, want := range map[string]string{
		"aarch64-linux":            "aarch64-linux",
		"riscv64-linux\n":          "riscv64-linux",
		"":                         here,
		"x86_64-linux; rm -rf /":   here,
		strings.Repeat("x", 70000): here,
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
