package build

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// What changes while it is evaluated has no revision: nobody knows which of the
// two was evaluated.
func TestRevisionDuring(t *testing.T) {
	nixtest.Current(t).NewStore(t).Setenv(t)
	local, err := nixcmd.Open(t.Context(), nixcmd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	for _, test := range []struct {
		name      string
		meanwhile func(t *testing.T, dir string) error
		want      string // "=": the commit at the beginning; else none
		says      string
	}{
		{"nothing", func(*testing.T, string) error { return nil }, "=", ""},
		{"somebody commits", func(t *testing.T, dir string) error {
			nixtest.Git(t, dir, "commit", "--quiet", "--allow-empty", "--message", "y")
			return nil
		}, "", "no revision is recorded"},
		{"somebody edits", func(t *testing.T, dir string) error {
			nixtest.WriteFiles(t, dir, map[string]string{"default.nix": "2"})
			return nil
		}, "", "-dirty: no revision is recorded"},
		{"the checkout goes away", func(t *testing.T, dir string) error { return os.RemoveAll(filepath.Join(dir, ".git")) }, "", "at none: no revision"},
		{"it fails", func(*testing.T, string) error { return io.ErrUnexpectedEOF }, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := nixtest.TempDir(t)
			nixtest.WriteFiles(t, dir, map[string]string{"default.nix": "1"})
			for _, args := range [][]string{{"init", "--quiet"}, {"add", "."}, {"commit", "--quiet", "--message", "x"}} {
				nixtest.Git(t, dir, args...)
			}
			want := ""
			if test.want != "" {
				want = nixtest.Git(t, dir, "rev-parse", "HEAD")
			}
			var log bytes.Buffer
			b := &builder{local: local, console: console.New(&log, os.Getenv, nil)}
			failure := errors.New("not called")
			got, err := b.revisionDuring(t.Context(), nixcmd.Installable{File: dir}, func() error {
				failure = test.meanwhile(t, dir)
				return failure
			})
			if got != want || !errors.Is(err, failure) {
				t.Errorf("got %q, error %v, want %q, error %v", got, err, want, failure)
			}
			if (test.says == "") != (log.Len() == 0) || !strings.Contains(log.String(), test.says) {
				t.Errorf("want %q in the log\n%s", test.says, &log)
			}
		})
	}
}

// A closure whose root doesn't say what it runs on was built for what its
// derivation says, which needn't be this machine's.
func TestReadSystem(t *testing.T) {
	for _, test := range []struct{ file, derivation, want string }{
		{"aarch64-linux", "riscv64-linux", "aarch64-linux"},
		{"", "riscv64-linux", "riscv64-linux"},
		{"", "builtin", "unknown"},
		{"", "", "unknown"},
	} {
		dir := t.TempDir()
		if test.file != "" {
			nixtest.WriteFiles(t, dir, map[string]string{"system": test.file})
		}
		got, err := readSystem(t.Context(), anyPath(dir), nix.StorePath{}, []nix.PathInfo{{}}, nixcmd.Derivation{System: test.derivation})
		if err != nil || got != test.want {
			t.Errorf("of %q by %q: got %s, error %v, want %s", test.file, test.derivation, got, err, test.want)
		}
	}
}

// anyPath is a source that has the same files for every path.
type anyPath string

func (dir anyPath) DumpNAR(_ context.Context, _ nix.StorePath, w io.Writer) error {
	return nar.Dump(w, string(dir))
}
