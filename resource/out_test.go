package resource

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSystem(t *testing.T) {
	dir := t.TempDir()
	here := system(dir)
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
		if got := system(dir); got != want {
			t.Errorf("%.30q: got %s, want %s", content, got, want)
		}
	}
}
