package nar

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDumpErrors(t *testing.T) {
	// A short directory, as sockets want it.
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(at("deep/"+strings.Repeat("d/", 64)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(at("tree/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()

	for name, want := range map[string]string{
		"missing":   "missing: no such file",
		"deep":      "is deeper than the 64 levels",
		"tree":      "tree/fifo is not a regular file, a directory or a symlink",
		"tree/fifo": "tree/fifo is not a regular file, a directory or a symlink",
		"socket":    "socket is not a regular file, a directory or a symlink",
	} {
		if err := Dump(io.Discard, at(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, want)
		}
	}
	if err := Dump(io.Discard, "/dev/null"); err == nil {
		t.Error("a device was dumped")
	}
}

// writerFunc is a Writer that does something on the way.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// The size of a file is written before its contents. If they turn out to be
// other than announced, nothing must pass for an archive.
func TestDumpOfChangingFile(t *testing.T) {
	const size = 4 * bufferSize
	for name, test := range map[string]struct {
		to   int64
		want string
	}{
		"grows":   {size + 1, "grew beyond its 262144 bytes"},
		"shrinks": {size - 1, "shrank from 262144 to 262143 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
				t.Fatal(err)
			}
			err := Dump(writerFunc(func(p []byte) (int, error) { return len(p), os.Truncate(path, test.to) }), path)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

// A file that is replaced between listing its directory and opening it is
// neither followed nor waited for.
func TestDumpOfReplacedFile(t *testing.T) {
	for name, test := range map[string]struct {
		replace func(path string) error
		want    string
	}{
		"by a symlink":   {func(path string) error { return os.Symlink("/etc/passwd", path) }, "too many levels of symbolic links"},
		"by a fifo":      {func(path string) error { return unix.Mkfifo(path, 0o644) }, "was replaced"},
		"by a directory": {func(path string) error { return os.Mkdir(path, 0o755) }, "was replaced"},
		"by nothing":     {func(string) error { return nil }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 2*bufferSize), 0o644); err != nil {
				t.Fatal(err)
			}
			b := filepath.Join(dir, "b")
			if err := os.WriteFile(b, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			var once sync.Once
			err := Dump(writerFunc(func(p []byte) (int, error) {
				var err error
				once.Do(func() { err = errors.Join(os.Remove(b), test.replace(b)) })
				return len(p), err
			}), dir)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

// The owner's bit decides, as in Nix.
func TestDumpExecutable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]bool{0o744: true, 0o655: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := Dump(&got, path); err != nil {
			t.Fatal(err)
		}
		if entries, _, err := list(&got); err != nil || entries[0].Executable != want {
			t.Errorf("mode %o: got %+v, %v, want executable %v", mode, entries, err, want)
		}
	}
}

func TestDumpPassesErrorsOn(t *testing.T) {
	boom := errors.New("boom")
	for name, size := range map[string]int{"at the end": 1, "in the middle": 4 * bufferSize} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Dump(writerFunc(func([]byte) (int, error) { return 0, boom }), path); !errors.Is(err, boom) {
			t.Errorf("%s: got error %v, want boom", name, err)
		}
	}
}

// A symlink is dumped as such, and not what it points to.
func TestDumpFollowsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/", path); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, path + "/"} {
		var got bytes.Buffer
		if err := Dump(&got, path); err != nil || !bytes.Equal(got.Bytes(), archive(link("/"))) {
			t.Errorf("%s: got %q, %v", path, got.Bytes(), err)
		}
	}
}
