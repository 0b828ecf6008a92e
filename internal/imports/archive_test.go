package imports

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// An entry of an archive that no tar would make: what is declared, and what
// content there is.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, content}
}

func directory(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o555}}
}

func link(typ byte, name, target string) entry {
	return entry{Header: tar.Header{Typeflag: typ, Name: name, Linkname: target, Mode: 0o777}}
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// plenty is a budget for tests that don't look at it.
var plenty = budget{entries: 100, bytes: 1 << 20}

// unpackTo unpacks an archive in a directory of its own, within another one of
// which nothing else may change, and returns what is there then.
func unpackTo(t *testing.T, data []byte, b budget) (map[string]string, error) {
	t.Helper()
	outside := t.TempDir()
	dir := filepath.Join(outside, "in", "side")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	unpackErr := unpack(t.Context(), bytes.NewReader(data), root, b)

	got := tree(t, outside)
	want := map[string]string{"in": "directory", "in/side": "directory", "secret": "untouched"}
	inside := map[string]string{}
	for name, what := range got {
		if rest, ok := strings.CutPrefix(name, "in/side/"); ok {
			inside[rest] = what
			delete(got, name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("something has changed outside (-want +got)\n%s", diff)
	}
	return inside, unpackErr
}

// tree is what is in a directory: files by their content, with a star if they
// are executable.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			files[name] = "directory"
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			files[name] = "-> " + target
			return err
		default:
			data, err := os.ReadFile(path)
			files[name] = string(data)
			if info.Mode()&0o100 != 0 {
				files[name] = "*" + string(data)
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// What an archive of a store has, in whatever order and with whatever
// permissions, is unpacked; owners and times don't matter.
func TestUnpack(t *testing.T) {
	executable := file("./nix/store/a/run", "#!")
	executable.Mode = 0o4555
	data := archive(t,
		entry{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "from git"}}},
		directory("./"), directory("./nix"), directory("./nix/store/a"),
		executable,
		file("nix/store/.links/1", "linked"),
		link(tar.TypeLink, "nix/store/a/first", "nix/store/.links/1"),
		link(tar.TypeLink, "./nix/store/b", "./nix/store/a/first"),
		directory("nix/store/a/"), // once more
		link(tar.TypeSymlink, "nix/store/a/link", "/nix/store/b"),
		link(tar.TypeSymlink, "nix/store/a/up", "../../../../../.."),
		link(tar.TypeLink, "nix/store/.links/2", "nix/store/a/up"),
		file("nix/store/a/deep/er/file", ""), // in directories that have no entry
		file("nix/store/a/"+strings.Repeat("n", 255), "long"),
		file("top", "after all"),
	)
	want := map[string]string{
		"nix": "directory", "nix/store": "directory", "nix/store/a": "directory", "nix/store/.links": "directory",
		"nix/store/a/run": "*#!", "nix/store/.links/1": "linked", "nix/store/a/first": "linked", "nix/store/b": "linked",
		"nix/store/a/link": "-> /nix/store/b", "nix/store/a/up": "-> ../../../../../..",
		"nix/store/.links/2": "-> ../../../../../..",
		"nix/store/a/deep":   "directory", "nix/store/a/deep/er": "directory", "nix/store/a/deep/er/file": "",
		"nix/store/a/" + strings.Repeat("n", 255): "long", "top": "after all",
	}
	for name, data := range map[string][]byte{"tar": data, "tgz": gzipped(t, data), "zst": zstandard(t, data)} {
		t.Run(name, func(t *testing.T) {
			got, err := unpackTo(t, data, plenty)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// What GNU tar has of its own, and what it does with names: absolute ones are
// relative, and what comes again counts, in place of what was there, not where that
// leads.
func TestUnpackLikeTar(t *testing.T) {
	const sym, hard = tar.TypeSymlink, tar.TypeLink
	outside := filepath.Join(nixtest.TempDir(t), "outside")
	if err := os.WriteFile(outside, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		entries []entry
		want    map[string]string
	}{
		{"absolute names", []entry{file("/a", "x"), link(hard, "/b", "/a")}, map[string]string{"a": "x", "b": "x"}},
		{"absolute, the top itself", []entry{directory("/"), directory("/d"), file("//d/a", "x")}, map[string]string{"d": "directory", "d/a": "x"}},
		{"a file over what was linked to", []entry{file("a", "x"), link(hard, "b", "a"), file("a", "y")}, map[string]string{"a": "y", "b": "x"}},
		{"a hard link over a file elsewhere", []entry{file("d/a", "x"), file("e/b", "y"), link(hard, "e/b", "d/a")}, map[string]string{"d": "directory", "e": "directory", "d/a": "x", "e/b": "x"}},
		{"a hard link to itself", []entry{file("d/a", "x"), link(hard, "./d/a", "/d/a")}, map[string]string{"d": "directory", "d/a": "x"}},
		{"a label", []entry{{Header: tar.Header{Typeflag: 'V', Name: "backup of today"}}, file("a", "x")}, map[string]string{"a": "x"}},
		{"a file over a symlink", []entry{link(sym, "a", outside), file("a", "x")}, map[string]string{"a": "x"}},
		{"a symlink twice", []entry{link(sym, "a", "b"), link(sym, "a", "c")}, map[string]string{"a": "-> c"}},
		{"a file twice", []entry{file("a", "x"), file("./a", "y")}, map[string]string{"a": "y"}},
		{"a file over a hard link", []entry{file("a", "x"), link(hard, "b", "a"), file("b", "y")}, map[string]string{"a": "x", "b": "y"}},
		{"a file over a hard link to a symlink", []entry{link(sym, "s", outside), link(hard, "a", "s"), file("a", "x")},
			map[string]string{"s": "-> " + outside, "a": "x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := unpackTo(t, archive(t, test.entries...), plenty)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != "untouched" {
		t.Errorf("outside there is %q, %v", data, err)
	}
}

// What GNU tar makes by its own options is unpacked as GNU tar does. See
// testdata/README.md.
func TestUnpackGNU(t *testing.T) {
	disk := make([]byte, 384<<10)
	for i, letter := range "abcdef" {
		copy(disk[i*64<<10:], strings.Repeat(string(letter), 4096))
	}
	names, err := filepath.Glob("testdata/*.tgz")
	if err != nil || len(names) != 11 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			want := map[string]string{"d": "directory", "d/file": "content", "d/hard": "content", "d/link": "-> file"}
			if strings.Contains(name, "sparse") {
				want["d/disk"] = string(disk)
			}
			if strings.Contains(name, "appended") {
				want["d/file"], want["d/link"] = "changed", "-> hard"
			}
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			got, err := unpackTo(t, data, plenty)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if _, err := unpackTo(t, data, budget{entries: 100, bytes: 6}); err == nil {
				t.Error("it is unpacked where there is no room")
			}
		})
	}
}

// An archive that takes more memory than there may be isn't called damaged.
func TestUnpackLargeWindow(t *testing.T) {
	data := bytes.Clone(zstandard(t, archive(t, file("a", "x"))))
	const streamed = 0x04 // no size, a checksum
	for _, log := range []byte{28, 31} {
		frame := append([]byte{0x28, 0xb5, 0x2f, 0xfd, streamed, (log - 10) << 3}, data[6:]...)
		_, err := unpackTo(t, frame, plenty)
		if err == nil {
			t.Errorf("2^%d: no error", log)
		}
		if hints := hint.Of(err); len(hints) != 1 || !strings.Contains(hints[0], "128 MiB") {
			t.Errorf("2^%d: the hints are %q", log, hints)
		}
	}
}

// An archive that means harm is refused, and has done none.
func TestUnpackAttacks(t *testing.T) {
	var many []entry
	for i := range 101 {
		many = append(many, file(fmt.Sprint(i), ""))
	}
	const sym, hard = tar.TypeSymlink, tar.TypeLink
	for _, test := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"out by dots", []entry{file("../secret", "x")}, "leads elsewhere"},
		{"out by dots further in", []entry{file("a/b/../../../../secret", "x")}, "leads elsewhere"},
		{"dots that stay inside", []entry{file("a/../b", "x")}, "leads elsewhere"},
		{"a directory outside", []entry{directory("../new")}, "leads elsewhere"},
		{"a symlink outside", []entry{link(sym, "../new", "x")}, "leads elsewhere"},
		{"through a symlink to the outside", []entry{link(sym, "up", "../.."), file("up/secret", "x")}, `"up" is not a directory`},
		{"through a symlink to an absolute place", []entry{link(sym, "etc", "/etc"), file("etc/nixos-closure", "x")}, `"etc" is not a directory`},
		{"through a symlink that stays inside", []entry{directory("a"), link(sym, "b", "a"), file("b/file", "x")}, `"b" is not a directory`},
		{"a directory through a symlink", []entry{link(sym, "up", ".."), directory("up/new")}, `"up" is not a directory`},
		{"a directory over a symlink", []entry{link(sym, "up", ".."), directory("up"), file("up/new", "x")}, `"up" is not a directory`},
		{"a symlink in place of a directory", []entry{file("a/file", "x"), link(sym, "a", "/etc"), file("a/other", "x")}, "there twice"},
		{"a file over a directory", []entry{directory("a"), file("a", "x")}, "there twice"},
		{"a directory over a file", []entry{file("a", "x"), directory("a")}, `"a" is not a directory`},
		{"through a file", []entry{file("a", "x"), file("a/b", "x")}, `"a" is not a directory`},
		{"the top itself", []entry{file(".", "x")}, "there twice"},
		{"a hard link to the outside", []entry{link(hard, "a", "../../secret")}, "leads elsewhere"},
		{"a hard link to an absolute place", []entry{link(hard, "a", "/etc/passwd")}, "no file that came before"},
		{"a hard link through a symlink", []entry{link(sym, "up", "../.."), link(hard, "a", "up/secret")}, `"up" is not a directory`},
		{"through a hard link to a symlink", []entry{link(sym, "s", "../.."), link(hard, "a", "s"), file("a/secret", "x")}, `"a" is not a directory`},
		{"a hard link to a directory", []entry{directory("d"), link(hard, "a", "d")}, "no file that came before"},
		{"a hard link to what comes later", []entry{link(hard, "a", "b"), file("b", "x")}, "no file that came before"},
		{"a character device", []entry{{Header: tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}}}, "neither a file"},
		{"a block device", []entry{{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}}}, "neither a file"},
		{"a FIFO", []entry{{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}}}, "neither a file"},
		{"a name that is too long", []entry{file(strings.Repeat("long/", 1000)+"file", "")}, "longer than 4096 bytes"},
		{"a component that is too long", []entry{file(strings.Repeat("n", 256), "x")}, "file name too long"},
		{"more than there is room for", []entry{file("a", strings.Repeat("x", 600_000)), file("b", strings.Repeat("x", 600_000))}, "more than half of the free space"},
		{"too many entries", many, "too many entries"},
		{"too many labels", slices.Repeat([]entry{{Header: tar.Header{Typeflag: gnuLabel, Name: "label"}}}, 101), "too many entries"},
		{"a hard link to itself that isn't there", []entry{link(hard, "a", "a")}, "no file that came before"},
		{"a hard link of a directory to itself", []entry{directory("a"), link(hard, "a", "a")}, "no file that came before"},
		{"a part of another volume", []entry{{Header: tar.Header{Typeflag: gnuMultivolume, Name: "a"}}}, "another volume"},
		{"out by dots after a slash", []entry{file("/../secret", "x")}, "leads elsewhere"},
		{"too many directories without an entry", []entry{file(strings.Repeat("d/", 101)+"file", "x")}, "too many entries"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := unpackTo(t, archive(t, test.entries...), plenty)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// What was cut off or changed on the way is not whole.
func TestUnpackDamaged(t *testing.T) {
	whole := archive(t, file("a", strings.Repeat("content ", 1000)), file("b", "x"))
	cut := func(data []byte) []byte { return data[:len(data)-100] }
	changed := gzipped(t, whole)
	changed[len(changed)-6] ^= 1 // of its checksum
	lying := bytes.Clone(whole)
	copy(lying[124:], "00000077777\x00") // the size of a, with a checksum to match
	fixChecksum(lying[:512])
	for _, test := range []struct {
		name string
		data []byte
		want string
	}{
		{"a tar that is cut off in a file", whole[:4000], "unexpected EOF"},
		{"a tar that is cut off in a header", whole[:8800], "unexpected EOF"},
		{"a tgz that is cut off", cut(gzipped(t, whole)), "unexpected EOF"},
		{"a zst that is cut off", cut(zstandard(t, whole)), "unexpected EOF"},
		{"a tgz whose checksum doesn't match", changed, "invalid checksum"},
		{"a file whose size is a lie", lying, "EOF"},
		{"no archive", []byte(strings.Repeat("something else\n", 100)), "not a tar"},
		{"a compression that isn't known", append([]byte("\x04\x22\x4d\x18"), make([]byte, 1024)...), "not a tar"},
		{"a gzip of nothing known", gzipped(t, []byte(strings.Repeat("something else\n", 100))), "not a tar"},
		{"another archive behind", append(gzipped(t, whole), gzipped(t, bytes.Repeat(whole, 200))...), "goes on after its end"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := unpackTo(t, test.data, plenty)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// fixChecksum makes a header valid that was changed.
func fixChecksum(header []byte) {
	copy(header[148:], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
}

// A few kilobytes that unpack to gigabytes are stopped before the disk is full,
// whether it is one file or its holes.
func TestUnpackBombs(t *testing.T) {
	zeros := strings.Repeat("\x00", 64<<20)
	sparse := entry{Header: tar.Header{
		Typeflag: tar.TypeReg, Name: "sparse", Mode: 0o644, Size: 512, Format: tar.FormatPAX,
		PAXRecords: map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse", "GNU.sparse.realsize": "67108864"},
	}, content: "0\n" + strings.Repeat("\x00", 510)}
	for name, data := range map[string][]byte{
		"gzip":   gzipped(t, archive(t, file("zeros", zeros))),
		"zstd":   zstandard(t, archive(t, file("zeros", zeros))),
		"sparse": rawArchive(t, sparse),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := unpackTo(t, data, budget{entries: 10, bytes: 1 << 20})
			if err == nil || !strings.Contains(err.Error(), "more than half of the free space") {
				t.Errorf("got %v", err)
			}
			if hints := hint.Of(err); len(hints) == 0 {
				t.Error("no hint")
			}
			if len(got) != 0 {
				t.Errorf("something was written all the same: %d files", len(got))
			}
		})
	}
}

// rawArchive is archive for records that the library reads, but doesn't write.
func rawArchive(t *testing.T, e entry) []byte {
	t.Helper()
	var records bytes.Buffer
	for _, key := range []string{"GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "GNU.sparse.realsize"} {
		line := " " + key + "=" + e.PAXRecords[key] + "\n"
		fmt.Fprintf(&records, "%d%s", len(line)+2, line)
	}
	extended := file("PaxHeaders.0/sparse", records.String())
	e.PAXRecords, e.Format = nil, 0
	data := archive(t, extended, e)
	data[156] = tar.TypeXHeader
	fixChecksum(data[:512])
	return data
}

func TestUnpackEndsWithItsContext(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := unpack(ctx, bytes.NewReader(archive(t, file("a", "x"))), root, plenty); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
