package nar

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// smallFiles is an archive as a package with much documentation has it: 2,000
// files of 4 KiB in 100 directories. Its benchmarks are about the cost of a
// file; those of a big one about that of a byte.
func smallFiles(b *testing.B) []byte {
	var dirs [][]any
	for i := range 100 {
		var files [][]any
		for j := range 20 {
			files = append(files, entry(fmt.Sprintf("file-%02d", j), file(string(bytes.Repeat([]byte("text"), 1024)))))
		}
		dirs = append(dirs, entry(fmt.Sprintf("directory-%02d", i), directory(files...)))
	}
	return archive(directory(dirs...))
}

func bigFile(b *testing.B) []byte {
	return archive(file(string(bytes.Repeat([]byte("64 MiB.."), 8<<20))))
}

var shapes = []struct {
	name    string
	archive func(*testing.B) []byte
}{{"small", smallFiles}, {"big", bigFile}}

func BenchmarkReader(b *testing.B) {
	for _, shape := range shapes {
		b.Run(shape.name, func(b *testing.B) {
			data := shape.archive(b)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				reader := NewReader(bytes.NewReader(data))
				for {
					if _, err := reader.Next(); err == io.EOF {
						break
					} else if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkRestore(b *testing.B) {
	for _, shape := range shapes {
		b.Run(shape.name, func(b *testing.B) {
			data := shape.archive(b)
			root := memoryRoot(b)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := Restore(bytes.NewReader(data), root, "x", InStore); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				removeAll(b, filepath.Join(root.Name(), "x"))
				b.StartTimer()
			}
		})
	}
}

func BenchmarkDump(b *testing.B) {
	for _, shape := range shapes {
		b.Run(shape.name, func(b *testing.B) {
			data := shape.archive(b)
			root := memoryRoot(b)
			if err := Restore(bytes.NewReader(data), root, "x", InStore); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := Dump(io.Discard, filepath.Join(root.Name(), "x")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// memoryRoot is a directory in tmpfs where the machine has one: these
// benchmarks are about us, not about a disk.
func memoryRoot(b *testing.B) *os.Root {
	dir, err := os.MkdirTemp("/dev/shm", "nar")
	if err != nil {
		dir = b.TempDir()
	}
	b.Cleanup(func() { removeAll(b, dir) })
	root, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { root.Close() })
	return root
}

// removeAll removes a tree whose directories may be read-only.
func removeAll(t testing.TB, path string) {
	filepath.WalkDir(path, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return err
	})
	if err := os.RemoveAll(path); err != nil {
		t.Error(err)
	}
}
