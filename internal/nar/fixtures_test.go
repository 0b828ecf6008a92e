package nar

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// A fixture is an archive and the verdict on it. Archives are spelled out as
// tokens, so that what is wrong with one can be read.
type fixture struct {
	name  string
	data  []byte
	want  []Entry // of a valid archive
	wrong string  // part of the error for an invalid one
	lax   bool    // nix-store --restore doesn't look where we do
}

// raw is a part of an archive that is not a token.
type raw []byte

// archive writes strings as tokens and raws as they are, after the magic.
func archive(parts ...any) []byte { return spell(append([]any{"nix-archive-1"}, parts...)...) }

func spell(parts ...any) []byte {
	var b []byte
	for _, part := range parts {
		switch part := part.(type) {
		case string:
			b = appendToken(b, part)
		case raw:
			b = append(b, part...)
		case []any:
			b = append(b, spell(part...)...)
		}
	}
	return b
}

func file(contents string) []any { return []any{"(", "type", "regular", "contents", contents, ")"} }

func link(target string) []any { return []any{"(", "type", "symlink", "target", target, ")"} }

func entry(name string, node []any) []any {
	return []any{"entry", "(", "name", name, "node", node, ")"}
}

func directory(entries ...[]any) []any {
	parts := []any{"(", "type", "directory"}
	for _, e := range entries {
		parts = append(parts, e)
	}
	return append(parts, ")")
}

// nested is a file below so many directories named d.
func nested(directories int) []any {
	node := file("deep")
	for range directories {
		node = directory(entry("d", node))
	}
	return node
}

// size is a length without what it announces.
func size(n uint64) raw { return binary.LittleEndian.AppendUint64(nil, n) }

func without(tail int, b []byte) []byte { return b[:len(b)-tail] }

var fixtures = []fixture{
	{name: "file", data: archive(file("hello")), want: []Entry{{Size: 5}}},
	{name: "empty file", data: archive(file("")), want: []Entry{{}}},
	{name: "file that needs no padding", data: archive(file("12345678")), want: []Entry{{Size: 8}}},
	{name: "file larger than the buffer", data: archive(file(strings.Repeat("x", 3*bufferSize+1))), want: []Entry{{Size: 3*bufferSize + 1}}},
	{name: "executable", data: archive("(", "type", "regular", "executable", "", "contents", "#!", ")"), want: []Entry{{Executable: true, Size: 2}}},
	{name: "symlink", data: archive(link("../../etc/passwd")), want: []Entry{{Type: Symlink, Target: "../../etc/passwd"}}},
	{name: "longest link target", data: archive(link(strings.Repeat("t", 4095))), want: []Entry{{Type: Symlink, Target: strings.Repeat("t", 4095)}}},
	{name: "empty directory", data: archive(directory()), want: []Entry{{Type: Directory}}},
	{
		name: "tree",
		data: archive(directory(
			entry("a", directory(entry("x", file("1")), entry("y", directory()))),
			entry("a-b", file("22")), // after a, though a/x would sort behind it
			entry("b", link("a")))),
		want: []Entry{
			{Type: Directory}, {Path: "a", Type: Directory}, {Path: "a/x", Size: 1}, {Path: "a/y", Type: Directory},
			{Path: "a-b", Size: 2}, {Path: "b", Type: Symlink, Target: "a"},
		},
	},
	{
		name: "names that look like something else",
		data: archive(directory(
			entry(")", file("")), entry("...", file("")), entry("..foo", file("")),
			entry("a\\b", file("")), entry("entry", directory(entry(")", file("")))), entry("\xff\n", file("")))),
		want: []Entry{
			{Type: Directory}, {Path: ")"}, {Path: "..."}, {Path: "..foo"},
			{Path: "a\\b"}, {Path: "entry", Type: Directory}, {Path: "entry/)"}, {Path: "\xff\n"},
		},
	},
	{name: "longest name", data: archive(directory(entry(strings.Repeat("n", 255), file("")))), want: []Entry{{Type: Directory}, {Path: strings.Repeat("n", 255)}}},
	{name: "deepest tree", data: archive(nested(63)), want: append(nestedEntries(63), Entry{Path: strings.Repeat("d/", 62) + "d", Size: 4})},

	{name: "nothing at all", data: nil, wrong: "stops short"},
	{name: "another kind of file", data: []byte("\x7fELF\x02\x01\x01\x00 and so on, and so on"), wrong: "doesn't start as a NAR"},
	{name: "another version", data: spell("nix-archive-2", file("")), wrong: "doesn't start as a NAR"},
	{name: "magic alone", data: archive(), wrong: "stops short"},
	{name: "unknown type", data: archive("(", "type", "fifo", ")"), wrong: "want a regular file"},
	{name: "type missing", data: archive("(", "contents", "x", ")"), wrong: "want a node"},
	{name: "contents missing", data: archive("(", "type", "regular", ")"), wrong: "want the contents"},
	{name: "contents twice", data: archive("(", "type", "regular", "contents", "x", "contents", "y", ")"), wrong: `want ")"`},
	{name: "executable marker with a value", data: archive("(", "type", "regular", "executable", "x", "contents", "", ")"), wrong: "want the contents"},
	{name: "executable after contents", data: archive("(", "type", "regular", "contents", "", "executable", "", ")"), wrong: `want ")"`},
	{name: "executable twice", data: archive("(", "type", "regular", "executable", "", "executable", "", "contents", "", ")"), wrong: "want the contents"},
	{name: "executable symlink", data: archive("(", "type", "symlink", "executable", "", "target", "x", ")"), wrong: "want a regular file"},
	{name: "executable directory", data: archive("(", "type", "directory", "executable", "", ")"), wrong: "want an entry"},
	{name: "junk token in a file", data: archive("(", "type", "regular", "contents", "x", "junk", ")"), wrong: `want ")"`},
	{name: "junk token in a directory", data: archive("(", "type", "directory", "junk", ")"), wrong: "want an entry"},
	{name: "junk token in an entry", data: archive("(", "type", "directory", "entry", "(", "junk", "name", "a", "node", file(""), ")", ")"), wrong: "want an entry"},
	{name: "junk token behind a node", data: archive("(", "type", "directory", "entry", "(", "name", "a", "node", file(""), "junk", ")", ")"), wrong: `want ")"`},
	{name: "junk token behind a directory", data: archive("(", "type", "directory", "entry", "(", "name", "a", "node", directory(), "junk", ")", ")"), wrong: `want ")"`},
	{name: "node before name", data: archive("(", "type", "directory", "entry", "(", "node", file(""), "name", "a", ")", ")"), wrong: "want an entry"},
	{name: "entry without node", data: archive("(", "type", "directory", "entry", "(", "name", "a", ")", ")"), wrong: "want a node"},
	{name: "name twice", data: archive("(", "type", "directory", "entry", "(", "name", "a", "name", "b", "node", file(""), ")", ")"), wrong: "want a node"},

	{name: "empty name", data: archive(directory(entry("", file("")))), wrong: "a name of 0 bytes"},
	{name: "name too long", data: archive(directory(entry(strings.Repeat("n", 256), file("")))), wrong: "a name of 256 bytes"},
	{name: "name of endless length", data: archive("(", "type", "directory", "entry", "(", "name", size(1<<63)), wrong: "a name of 9223372036854775808 bytes"},
	{name: "name dot", data: archive(directory(entry(".", file("")))), wrong: `the name "."`},
	{name: "name dot dot", data: archive(directory(entry("..", directory()))), wrong: `the name ".."`},
	{name: "name with slash", data: archive(directory(entry("a/b", file("")))), wrong: `the name "a/b"`},
	{name: "absolute name", data: archive(directory(entry("/etc", file("")))), wrong: `the name "/etc"`},
	{name: "name with NUL", data: archive(directory(entry("a\x00b", file("")))), wrong: `the name "a\x00b"`},
	{name: "same name twice", data: archive(directory(entry("a", file("")), entry("a", file("")))), wrong: `"a" comes after "a"`},
	{name: "directory through a symlink", data: archive(directory(entry("a", link("/tmp")), entry("a", directory(entry("x", file("")))))), wrong: `"a" comes after "a"`},
	{name: "names out of order", data: archive(directory(entry("b", file("")), entry("a", file("")))), wrong: `"a" comes after "b"`},
	{name: "names out of order, as characters", data: archive(directory(entry("\xff", file("")), entry("a", file("")))), wrong: "comes after"},
	{name: "empty link target", data: archive(link("")), wrong: "a link target of 0 bytes"},
	{name: "link target too long", data: archive(link(strings.Repeat("t", 4096))), wrong: "a link target of 4096 bytes"},
	{name: "link target with NUL", data: archive(link("a\x00b")), wrong: "contains a NUL"},
	{name: "too deep", data: archive(nested(64)), wrong: "deeper than 64"},

	{name: "padding of the magic", data: withByte(archive(file("")), 8+13, 1), wrong: "doesn't start as a NAR"},
	{name: "padding of contents", data: archive("(", "type", "regular", "contents", size(1), raw("x\x00\x00\x00\x00\x00\x00\x01"), ")"), wrong: "padding is not zero"},
	{name: "padding of a name", data: archive("(", "type", "directory", "entry", "(", "name", size(1), raw("x\x00\x00\x00\x00\x00\x00\x01"), "node", file(""), ")", ")"), wrong: "padding of a name"},
	{name: "padding of a link target", data: archive("(", "type", "symlink", "target", size(1), raw("x\x01\x00\x00\x00\x00\x00\x00"), ")"), wrong: "padding of a link target"},
	{name: "padding of a token", data: archive("(", "type", size(7), raw("regular\x01"), "contents", "", ")"), wrong: "want a regular file"},

	{name: "contents of endless length", data: archive("(", "type", "regular", "contents", size(1<<64-1)), wrong: "can't be"},
	{name: "contents longer than the archive", data: archive("(", "type", "regular", "contents", size(1<<40), raw("some")), wrong: "stops short"},
	{name: "truncated in the contents", data: without(48, archive(file(strings.Repeat("x", 64)))), wrong: "stops short"},
	{name: "truncated in the padding", data: without(20, archive(file("hello"))), wrong: "stops short"},
	{name: "truncated in a token", data: without(3, archive(file("hello"))), wrong: "stops short"},
	{name: "truncated between entries", data: without(16, archive(directory(entry("a", file(""))))), wrong: "stops short"},

	{name: "trailing byte", data: archive(file("hello"), raw("x")), wrong: "bytes after its end", lax: true},
	{name: "trailing zeros", data: archive(file("hello"), raw(zeros[:])), wrong: "bytes after its end", lax: true},
	{name: "second archive behind the first", data: archive(file("hello"), raw(archive(file("hello")))), wrong: "bytes after its end", lax: true},
}

func nestedEntries(n int) []Entry {
	var entries []Entry
	for i := range n {
		entries = append(entries, Entry{Path: strings.TrimSuffix(strings.Repeat("d/", i), "/"), Type: Directory})
	}
	return entries
}

func withByte(b []byte, at int, with byte) []byte {
	b = bytes.Clone(b)
	b[at] = with
	return b
}
