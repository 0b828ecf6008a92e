package nixcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests attack promise 8 with real processes: a victim that holds a
// secret wherever one can be held, and a child of it that looks everywhere. A
// victim that starts its child without protection, by plain os/exec, shows that
// the child would find it.
//
// Both are this test binary again, told by its first arguments what to be.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "be-victim":
			beVictim(os.Args[2] == "protected", os.Args[0], "be-hostile")
			return
		case "be-victim-building":
			beVictimBuilding(os.Args[2], os.Args[3], os.Args[4], os.Args[5:])
			return
		case "be-hostile-builder":
			beHostileBuilder(os.Args[2])
			return
		case "be-hostile":
			beHostile()
			return
		}
	}
	os.Exit(m.Run())
}

// The secret is nowhere in a program's text or arguments, only where it is put.
var secretPattern = regexp.MustCompile("SECRET" + "-[0-9]{10}")

func newSecret() string { return "SECRET" + "-" + strconv.Itoa(1000000000+os.Getpid()) }

// beVictim holds a secret in its environment, on its stdin, in its memory, and
// in a descriptor that a careless parent has left it, and starts a child.
func beVictim(protected bool, program string, args ...string) {
	memory := os.Getenv("VICTIM_SECRET")
	var err error
	if protected {
		err = errors.Join(ProtectProcess(), run(context.Background(), nil, os.Stdout, os.Stderr, program, args...))
	} else {
		cmd := exec.Command(program, args...)
		cmd.Stdout, cmd.Stderr, cmd.Stdin = os.Stdout, os.Stderr, os.Stdin
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err = cmd.Run()
	}
	if err != nil {
		fmt.Println("the child failed:", err)
	}
	if len(memory) == 0 { // and keeps memory alive
		fmt.Println("the victim has no secret")
	}
}

// beHostile looks for the secret and says where it found it.
func beHostile() {
	found := func(where string, data []byte) {
		if secretPattern.Match(data) {
			fmt.Println("found in", where)
		}
	}
	open := func(where, path string) {
		if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			data := make([]byte, 64<<10)
			n, _ := unix.Read(fd, data)
			found(where, data[:max(0, n)])
			unix.Close(fd)
		}
	}
	parent := fmt.Sprintf("/proc/%d/", os.Getppid())
	fmt.Println("looked")

	found("own environment", []byte(strings.Join(os.Environ(), "\n")))
	if flags, err := unix.FcntlInt(3, unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
		fmt.Println("found in inherited descriptor")
	}
	open("environ", parent+"environ")
	open("fd", parent+"fd/0")
	open("task's environ", parent+"task/"+strconv.Itoa(os.Getppid())+"/environ")
	if pidfd, err := unix.PidfdOpen(os.Getppid(), 0); err == nil {
		if fd, err := unix.PidfdGetfd(pidfd, 0, 0); err == nil {
			fmt.Println("found in stolen descriptor")
			unix.Close(fd)
		}
	}
	if searchMemory(parent) {
		fmt.Println("found in memory")
	}
	var word [8]byte
	local, remote := []unix.Iovec{{Base: &word[0], Len: 8}}, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}
	if _, err := unix.ProcessVMReadv(os.Getppid(), local, remote, 0); err == nil {
		fmt.Println("found in memory, read from afar")
	}
	if err := unix.PtraceSeize(os.Getppid()); err == nil {
		fmt.Println("found by tracing")
	}
}

// searchMemory searches what a process has written.
func searchMemory(proc string) bool {
	maps, err := os.ReadFile(proc + "maps")
	if err != nil {
		return false
	}
	mem, err := os.Open(proc + "mem")
	if err != nil {
		return false
	}
	defer mem.Close()
	var data []byte
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || mode[:2] != "rw" || to-from > 1<<24 {
			continue
		}
		data = slices.Grow(data[:0], int(to-from))[:to-from]
		n, _ := mem.ReadAt(data, from)
		if secretPattern.Match(data[:n]) {
			return true
		}
	}
	return false
}

// victim runs a victim with a secret in all places, and returns what its child
// has printed.
func victim(t *testing.T, binary string, attributes *syscall.SysProcAttr, stdin func(secret string) *os.File, environment []string, args ...string) string {
	t.Helper()
	secret := newSecret()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(environment, "VICTIM_SECRET="+secret, "AWS_SECRET_ACCESS_KEY="+secret)
	cmd.Stdin = stdin(secret)
	cmd.ExtraFiles = []*os.File{secretFile(t, secret)}
	cmd.SysProcAttr = attributes
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the victim failed: %v\n%s", err, out)
	}
	return string(out)
}

func secretFile(t *testing.T, secret string) *os.File {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(secret); err != nil {
		t.Fatal(err)
	}
	if err := f.Chmod(0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

func secretPipe(t *testing.T, secret string) *os.File {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	if _, err := w.WriteString(secret); err != nil {
		t.Fatal(err)
	}
	if err := r.Chmod(0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestHostileChild(t *testing.T) {
	users := map[string]*syscall.SysProcAttr{"user " + strconv.Itoa(os.Getuid()): nil}
	binary := os.Args[0]
	if os.Getuid() == 0 {
		users["nobody"] = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		binary = forEverybody(t, binary)
	}
	for user, attributes := range users {
		for kind, stdin := range map[string]func(*testing.T, string) *os.File{"file": secretFile, "pipe": secretPipe} {
			t.Run(user+", stdin is a "+kind, func(t *testing.T) {
				stdin := func(secret string) *os.File { return stdin(t, secret) }
				environment := []string{"PATH=" + os.Getenv("PATH")}

				control := victim(t, binary, attributes, stdin, environment, "be-victim", "open")
				for _, want := range []string{"own environment", "environ", "fd"} {
					if !strings.Contains(control, "found in "+want+"\n") {
						t.Errorf("unprotected, the secret isn't found in %s: this test tests nothing\n%s", want, control)
					}
				}
				got := victim(t, binary, attributes, stdin, environment, "be-victim", "protected")
				if got != "looked\n" {
					t.Errorf("the child says:\n%s", got)
				}
			})
		}
	}
}

// forEverybody is a copy of this test's binary that any user may run.
func forEverybody(t *testing.T, binary string) string {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "test"), data, 0o755)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "test")
}
