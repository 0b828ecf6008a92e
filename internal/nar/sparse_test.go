package nar

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Blocks of zeros take no room, and nothing else changes.
func TestRestoreSparse(t *testing.T) {
	data := func(n int) string { return strings.Repeat("x", n) }
	hole := func(n int) string { return strings.Repeat("\x00", n) }
	for name, test := range map[string]struct {
		content string
		blocks  int // of blockSize bytes, that have to be on the disk
	}{
		"nothing":                        {"", 0},
		"small":                          {"x", 1},
		"zeros, but not a block of them": {data(10) + hole(blockSize) + data(10), 2},
		"a hole":                         {hole(10 * blockSize), 0},
		"a hole of any size":             {hole(3*bufferSize + 17), 0},
		"a hole at the beginning":        {hole(blockSize) + data(1), 1},
		"a hole in the middle":           {data(blockSize) + hole(100*blockSize) + data(blockSize), 2},
		"a hole at the end":              {data(blockSize) + hole(100*blockSize), 1},
		"a hole of a part of a block":    {data(blockSize) + hole(1), 1},
		"holes between blocks":           {strings.Repeat(data(blockSize)+hole(blockSize), 50), 50},
		"no holes":                       {data(3*bufferSize + 17), 3*bufferSize/blockSize + 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, root := outsideAndRoot(t)
			if err := Restore(bytes.NewReader(archive(file(test.content))), root, "x", InStore); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(root.Name(), "x")
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != test.content {
				t.Errorf("got other contents, of %d bytes; want %d", len(got), len(test.content))
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if got := int(info.Sys().(*syscall.Stat_t).Blocks) * 512 / blockSize; got > test.blocks {
				t.Errorf("it takes %d blocks, want at most %d", got, test.blocks)
			}
		})
	}
}
