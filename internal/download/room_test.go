package download

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// What is needed is told for each format by what it is made of.
func TestNeeds(t *testing.T) {
	path := func(narSize, fileSize int64, compression string) cache.NarInfo {
		return cache.NarInfo{PathInfo: nix.PathInfo{NarSize: narSize}, FileSize: fileSize, Compression: compression}
	}
	const mib = 1 << 20
	system := &cache.Closure{Paths: []cache.NarInfo{path(30*mib, 10*mib, "zstd"), path(10*mib, 10*mib, "none"), path(2*mib, 1*mib, "xz")}}
	holes := &cache.Closure{Paths: []cache.NarInfo{path(2048*mib, 4*mib, "zstd")}}
	for _, test := range []struct {
		name    string
		closure *cache.Closure
		format  Format
		want    need
	}{
		{"a store", system, Rootfs, need{42 * mib, smallFiles + 3}},
		{"a cache", system, Cache, need{21 * mib, smallFiles + 6}},
		{"a path", system, Files, need{2 * mib, smallFiles + 1}},
		{"an archive", system, Archive, need{5*mib + 10*mib/8 + mib/2, smallFiles + 1}},
		{"small files", system, None, need{0, smallFiles}},
		{"what may be holes", holes, Files, need{64 * mib, smallFiles + 1}},
	} {
		if got := (&Request{Format: test.format}).needs(test.closure); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// Each thing that a file system may lack has its advice; other errors have none.
func TestExplain(t *testing.T) {
	dest := destination{dir: "/dest"}
	at := func(op string, errno unix.Errno) error {
		return fmt.Errorf("unpacking: %w", &fs.PathError{Op: op, Path: "/dest/x", Err: errno})
	}
	for _, test := range []struct {
		err  error
		want string
	}{
		{at("write", unix.ENOSPC), "too little room: this takes about 3.0 MiB and more than 7 files"},
		{at("mkdir", unix.EDQUOT), "too little room"},
		{at("create", unix.ENAMETOOLONG), "can't have names as long"},
		{at("write", unix.EFBIG), "can't have files as large"},
		{at("symlink", unix.EPERM), "can't have symlinks"},
		{&os.LinkError{Op: "symlinkat", Old: "a", New: "b", Err: unix.EOPNOTSUPP}, "can't have symlinks"},
		{at("create", unix.EEXIST), "takes two names of the closure for one"},
		{at("open", unix.EPERM), ""},
		{unix.ECONNRESET, ""},
	} {
		got := strings.Join(hint.Of(dest.explain(test.err, need{3 << 20, 8})), "\n")
		if !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%v: got %q, want %q", test.err, got, test.want)
		}
	}
}
