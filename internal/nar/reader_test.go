package nar

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// list reads a whole archive, contents included.
func list(r io.Reader) (entries []Entry, contents []string, err error) {
	reader := NewReader(r)
	for {
		entry, err := reader.Next()
		if err == io.EOF {
			return entries, contents, nil
		}
		if err != nil {
			return nil, nil, err
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			return nil, nil, err
		}
		entries = append(entries, *entry)
		contents = append(contents, string(data))
	}
}

func TestReader(t *testing.T) {
	for _, f := range fixtures {
		t.Run(f.name, func(t *testing.T) {
			got, contents, err := list(bytes.NewReader(f.data))
			if f.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), f.wrong) {
					t.Fatalf("got error %v, want one with %q", err, f.wrong)
				}
				var format *FormatError
				if errors.As(err, &format) == errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%v: want either a FormatError or an unexpected EOF", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(f.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			for i, entry := range got {
				if int64(len(contents[i])) != entry.Size {
					t.Errorf("%q has %d bytes, want %d", entry.Path, len(contents[i]), entry.Size)
				}
			}

			// The same, however the bytes come.
			slow, _, slowErr := list(iotest.HalfReader(iotest.DataErrReader(bytes.NewReader(f.data))))
			if diff := cmp.Diff(got, slow); diff != "" || (err == nil) != (slowErr == nil) {
				t.Errorf("read in pieces: error %v, entries (-want +got)\n%s", slowErr, diff)
			}
		})
	}
}

// Every prefix of a valid archive is an archive that stops short, and nothing
// but that.
func TestReaderTruncated(t *testing.T) {
	for _, f := range fixtures {
		if f.wrong != "" || len(f.data) > 4096 {
			continue
		}
		for n := range f.data {
			if _, _, err := list(bytes.NewReader(f.data[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s, first %d bytes of %d: got error %v, want io.ErrUnexpectedEOF", f.name, n, len(f.data), err)
			}
		}
	}
}

// A reader that verifies a hash reports a mismatch where it would report EOF.
// That must not get lost, wherever in the archive it happens.
func TestReaderPassesErrorsOn(t *testing.T) {
	boom := errors.New("boom")
	data := archive(directory(entry("a", file("hello")), entry("b", link("a"))))
	for n := range len(data) + 1 {
		reader := NewReader(io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(boom)))
		var err error
		for err == nil {
			_, err = reader.Next()
		}
		if !errors.Is(err, boom) {
			t.Errorf("after %d bytes of %d: got error %v, want boom", n, len(data), err)
		}
		if _, again := reader.Next(); again != err {
			t.Errorf("after %d bytes: Next forgets its error, and returns %v", n, again)
		}
	}
}

// Next skips what has not been read of a file.
func TestReaderSkips(t *testing.T) {
	reader := NewReader(bytes.NewReader(archive(directory(entry("a", file("hello")), entry("b", file("world"))))))
	for _, want := range []string{"", "", "wor"} {
		if _, err := reader.Next(); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(reader, got); err != nil || string(got) != want {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
	if _, err := reader.Next(); err != io.EOF {
		t.Errorf("got error %v at the end, want io.EOF", err)
	}
}

// encode writes what list has read.
func encode(entries []Entry, contents []string) []byte {
	var children func(parent string) [][]any
	node := func(i int) []any {
		switch e := entries[i]; {
		case e.Type == Directory:
			return directory(children(e.Path)...)
		case e.Type == Symlink:
			return link(e.Target)
		case e.Executable:
			return []any{"(", "type", "regular", "executable", "", "contents", contents[i], ")"}
		default:
			return file(contents[i])
		}
	}
	children = func(parent string) (nodes [][]any) {
		for i, e := range entries {
			dir, name := "", e.Path
			if slash := strings.LastIndexByte(e.Path, '/'); slash >= 0 {
				dir, name = e.Path[:slash], e.Path[slash+1:]
			}
			if i > 0 && dir == parent {
				nodes = append(nodes, entry(name, node(i)))
			}
		}
		return nodes
	}
	return archive(node(0))
}

// FuzzReader: whatever is accepted is the one encoding of what it holds. (If
// anything could be added to an archive unseen, this would find it.)
func FuzzReader(f *testing.F) {
	for _, fixture := range fixtures {
		if len(fixture.data) < 16<<10 {
			f.Add(fixture.data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, contents, err := list(bytes.NewReader(data))
		if err != nil {
			return
		}
		if diff := cmp.Diff(data, encode(entries, contents)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}
