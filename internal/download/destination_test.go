package download

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// What a failed get has made goes, read-only directories of a store included,
// as deep as those of a NAR can be, also where nobody is root; the destination
// itself, a mount point, stays.
func TestDestinationClear(t *testing.T) {
	dir, err := os.MkdirTemp("", "destination") // where nobody gets to
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Skip("only root can be nobody, too")
	}
	asNobody(t, func() {
		nixtest.WriteFiles(t, dir, map[string]string{GenerationFile: "{}", "rootfs/nix/store/x/bin/x": "", "path": ""})
		if err := os.Symlink("/etc", filepath.Join(dir, "rootfs/nix/store/x/etc")); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(filepath.Join(dir, "rootfs/nix/store/x"))
		if err != nil {
			t.Fatal(err)
		}
		makeDeep(t, root, 60)
		for _, name := range []string{"rootfs/nix/store/x/bin", "rootfs/nix/store/x"} {
			if err := os.Chmod(filepath.Join(dir, name), 0o555); err != nil {
				t.Fatal(err)
			}
		}
		if err := (destination{dir: dir}).clear(); err != nil {
			t.Fatal(err)
		}
	})
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat("/etc"); err != nil {
		t.Error(err)
	}
}

// makeDeep makes read-only directories in one another, with the longest of names
// and one that isn't text, and closes the outermost.
func makeDeep(t *testing.T, dir *os.Root, depth int) {
	t.Helper()
	defer dir.Close()
	if depth == 0 {
		return
	}
	name := strings.Repeat("\xe9", 255)
	if err := dir.Mkdir(name, 0o755); err != nil {
		t.Fatal(err)
	}
	inner, err := dir.OpenRoot(name)
	if err != nil {
		t.Fatal(err)
	}
	makeDeep(t, inner, depth-1)
	if err := dir.Chmod(name, 0o555); err != nil {
		t.Fatal(err)
	}
}

const nobody = 65534

// asNobody does something to files as the user nobody, whom root is now.
func asNobody(t *testing.T, do func()) {
	runtime.LockOSThread() // it is a matter of threads
	defer runtime.UnlockOSThread()
	unix.SetfsuidRetUid(nobody)
	defer unix.SetfsuidRetUid(os.Geteuid())
	if uid, _ := unix.SetfsuidRetUid(-1); uid != nobody {
		t.Skip("this machine doesn't let us be nobody")
	}
	do()
}

func TestOpenDestination(t *testing.T) {
	dir := t.TempDir()
	if _, err := openDestination(dir); err != nil {
		t.Error(err)
	}
	nixtest.WriteFiles(t, dir, map[string]string{"leftover": ""})
	for name, dir := range map[string]string{"none": "", "not there": filepath.Join(dir, "x"), "a file": filepath.Join(dir, "leftover"), "not empty": dir} {
		if _, err := openDestination(dir); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
