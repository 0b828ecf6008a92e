package nar

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// outsideAndRoot makes a directory in a directory.
func outsideAndRoot(t *testing.T) (outside string, root *os.Root) {
	outside = nixtest.TempDir(t)
	if err := os.Mkdir(filepath.Join(outside, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(outside, "root"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return outside, root
}

// What is restored and dumped again is what it was, for everything that an
// archive can hold.
func TestRestoreAndDump(t *testing.T) {
	for _, f := range fixtures {
		if f.wrong != "" {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			_, root := outsideAndRoot(t)
			if err := Restore(bytes.NewReader(f.data), root, "x", InStore); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := Dump(&got, filepath.Join(root.Name(), "x")); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(f.data, got.Bytes()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// metadata is what `nix-store --dump` doesn't show of a tree.
func metadata(t *testing.T, root string) map[string]string {
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		mode := info.Mode().String()
		if d.Type() == fs.ModeSymlink {
			mode = "symlink" // its permissions are the machine's business
		}
		files[relative] = fmt.Sprintf("%s %d.%09d", mode, info.ModTime().Unix(), info.ModTime().Nanosecond())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Modes and times are those that are asked for, whatever the umask.
func TestRestoreMetadata(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	_, root := outsideAndRoot(t)
	executable := []any{"(", "type", "regular", "executable", "", "contents", "x", ")"}
	data := archive(directory(
		entry("dir", directory(entry("file", file("x")), entry("file2", file("x")))),
		entry("exe", executable),
		entry("exe2", executable),
		entry("link", link("nowhere"))))
	for _, test := range []struct {
		name                  string
		permissions           Permissions
		file, executable, dir string
	}{
		{"store", InStore, "-r--r--r--", "-r-xr-xr-x", "dr-xr-xr-x"},
		{"ordinary", Ordinary, "-rw-r--r--", "-rwxr-xr-x", "drwxr-xr-x"},
	} {
		want := map[string]string{
			".":         test.dir + " 1.000000000",
			"dir":       test.dir + " 1.000000000",
			"dir/file":  test.file + " 1.000000000",
			"dir/file2": test.file + " 1.000000000",
			"exe":       test.executable + " 1.000000000",
			"exe2":      test.executable + " 1.000000000",
			"link":      "symlink 1.000000000",
		}
		for _, umask := range []int{0o000, 0o011, 0o022, 0o077, 0o444} {
			syscall.Umask(umask)
			name := fmt.Sprintf("%s-%03o", test.name, umask)
			if err := Restore(bytes.NewReader(data), root, name, test.permissions); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, metadata(t, filepath.Join(root.Name(), name))); diff != "" {
				t.Errorf("%s (-want +got)\n%s", name, diff)
			}
		}
	}
}

// No archive, bad or good, leaves anything elsewhere than at its place, or a
// descriptor open.
func TestRestoreStaysInside(t *testing.T) {
	outside, root := outsideAndRoot(t)
	before := openFiles(t)
	for i, f := range fixtures {
		err := Restore(bytes.NewReader(f.data), root, fmt.Sprint("x", i), InStore)
		if (err == nil) != (f.wrong == "") {
			t.Errorf("%s: got error %v", f.name, err)
		}
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d descriptors are open, before it were %d", after, before)
	}
	for dir, prefix := range map[string]string{outside: "root", root.Name(): "x"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if !strings.HasPrefix(entry.Name(), prefix) {
				t.Errorf("there is %s in %s", entry.Name(), dir)
			}
		}
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

// The place must be a name below the root, with nothing there.
func TestRestorePlace(t *testing.T) {
	outside, root := outsideAndRoot(t)
	for _, link := range [][2]string{{"../elsewhere", "dangling"}, {"..", "up"}} {
		if err := root.Symlink(link[0], link[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"dir", "taken"} {
		if err := root.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := root.WriteFile("precious", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	archives := map[string][]byte{
		"file": archive(file("x")), "link": archive(link("y")), "directory": archive(directory(entry("a", file("x")))),
	}
	for _, name := range []string{"", ".", "..", "/", "/tmp/x", "../x", "dir/..", "dir/../..", "dangling", "dangling/x", "up", "up/x", "taken", "precious", "missing/x"} {
		for kind, data := range archives {
			if err := Restore(bytes.NewReader(data), root, name, InStore); err == nil {
				t.Errorf("a %s was restored to %q", kind, name)
			}
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside of the root there are %v (%v)", entries, err)
	}
	if err := Restore(bytes.NewReader(archives["directory"]), root, "dir/x", InStore); err != nil {
		t.Error(err)
	}
}

// What goes wrong is told by its path, and what the reader says by itself.
func TestRestoreErrors(t *testing.T) {
	_, root := outsideAndRoot(t)
	data := archive(directory(entry("a", directory(entry("b", file("hello"))))))

	if err := Restore(bytes.NewReader(without(60, data)), root, "short", InStore); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got error %v, want io.ErrUnexpectedEOF", err)
	}
	var format *FormatError
	if err := Restore(bytes.NewReader(append(data, 'x')), root, "trailing", InStore); !errors.As(err, &format) {
		t.Errorf("got error %v, want a FormatError", err)
	}

	var path *fs.PathError
	err := Restore(bytes.NewReader(archive(directory(entry(strings.Repeat("d", 255), directory(entry("x", link("y"))))))), root, "trailing", InStore)
	if !errors.As(err, &path) || path.Path != filepath.Join(root.Name(), "trailing") || !errors.Is(err, fs.ErrExist) {
		t.Errorf("got error %v, want one that names the path that exists", err)
	}
}
