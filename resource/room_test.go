package resource

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

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
		format  format
		want    need
	}{
		{"a store", system, formatRootfs, need{42 * mib, smallFiles + 3}},
		{"a cache", system, formatCache, need{21 * mib, smallFiles + 6}},
		{"a path", system, formatResult, need{2 * mib, smallFiles + 1}},
		{"an archive", system, formatArchive, need{5*mib + 10*mib/8 + mib/2, smallFiles + 1}},
		{"small files", system, formatNone, need{0, smallFiles}},
		{"what may be holes", holes, formatResult, need{64 * mib, smallFiles + 1}},
	} {
		if got := (InParams{Format: test.format}).needs(test.closure); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// Each thing that a file system may lack has its advice; other errors have none.
func TestExplain(t *testing.T) {
	dest := destination{"/dest"}
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

// without runs a command that can't make use of a system call: the kernel
// answers it with an error, as it would for some file systems.
//
//	without SYSCALL ERRNO COMMAND [ARGUMENT…]
func without() {
	call := map[string]uint32{"symlinkat": unix.SYS_SYMLINKAT, "linkat": unix.SYS_LINKAT, "mkdirat": unix.SYS_MKDIRAT}[os.Args[1]]
	errno := map[string]unix.Errno{"EPERM": unix.EPERM, "ENAMETOOLONG": unix.ENAMETOOLONG}[os.Args[2]]
	path, err := exec.LookPath(os.Args[3])
	if err != nil || call == 0 || errno == 0 {
		panic(fmt.Sprint(os.Args, err))
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0); err != nil {
		panic(err)
	}
	panic(syscall.Exec(path, os.Args[3:], os.Environ()))
}
