package cache

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// tree is a source of one path, in a directory.
type tree string

func (dir tree) DumpNAR(_ context.Context, _ nix.StorePath, w io.Writer) error {
	return nar.Dump(w, string(dir))
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"a": "before", "system": "x86_64-linux\n", "large": strings.Repeat("x", 101), "z": "after"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("system", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"system": "x86_64-linux\n", "large": "", "link": "", "missing": "", "": ""} {
		got, err := ReadFile(t.Context(), tree(dir), nix.StorePath{}, name, 100)
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	_, err := ReadFile(t.Context(), tree(filepath.Join(dir, "nowhere")), nix.StorePath{}, "system", 100)
	wantError(t, err, "no such file")
}

// What was found is not believed before all that came with it is verified.
func TestReadFileOfDamagedSource(t *testing.T) {
	s, root := sample(t)
	_, err := ReadFile(t.Context(), truncated{s}, root, "", 100)
	wantError(t, err, "unexpected EOF")
}

// truncated leaves out the last byte.
type truncated struct{ *store }

func (s truncated) DumpNAR(_ context.Context, path nix.StorePath, w io.Writer) error {
	_, err := io.Copy(w, bytes.NewReader(s.nars[path][:len(s.nars[path])-1]))
	return err
}
