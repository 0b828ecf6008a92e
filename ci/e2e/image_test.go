package e2e_test

import (
	"debug/elf"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The programs are static, for both architectures (promise 10).
func TestProgramsAreStatic(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"amd64", "arm64"} {
		dir := t.TempDir()
		if err := nixtest.BuildPrograms(dir+"/", arch, "../../cmd/..."); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"check", "in", "out"} {
			program, err := elf.Open(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			defer program.Close()
			for _, segment := range program.Progs {
				if segment.Type == elf.PT_INTERP || segment.Type == elf.PT_DYNAMIC {
					t.Errorf("%s for %s is linked dynamically: it has a %v", name, arch, segment.Type)
				}
			}
		}
	}
}

// check and in work in an image that holds nothing but themselves: no Nix, no
// shell, no certificates, no environment, and /tmp is not needed (promise 10).
func TestEmptyImage(t *testing.T) {
	t.Parallel()
	cache := directory(t.TempDir())
	r := newRig(t, nixtest.Current(t), cache)
	path := r.nextSystem(t, false)
	v := must[put](t)(answer[put](r.out(path))).Version

	image := nixtest.TempDir(t)
	for _, name := range []string{"check", "in"} {
		program := must[[]byte](t)(os.ReadFile(filepath.Join(programs(), name)))
		if err := os.WriteFile(filepath.Join(image, name), program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(image, "dest"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(image, "cache"), os.DirFS(string(cache))); err != nil {
		t.Fatal(err)
	}

	source := r.follower()
	source["cache"] = "file:///cache"
	check := inImage(image, "check", "", map[string]any{"source": source, "version": nil})
	if got := must[[]version](t)(answer[[]version](check)); len(got) != 1 || got[0] != v {
		t.Errorf("check: got %v, want %v", got, v)
	}
	get := inImage(image, "in", "/dest", map[string]any{"source": source, "version": v})
	if got := must[put](t)(answer[put](get)).Version; got != v {
		t.Errorf("in: got %v, want %v", got, v)
	}
	restored(t, r.nix, filepath.Join(image, "dest"), v.Path)
}

// inImage is call in a root directory of its own, whoever we are.
func inImage(image, program, dir string, request map[string]any) *program {
	cmd := call(program, dir, []string{}, request)
	cmd.Path = "/" + program
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:      image,
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}
