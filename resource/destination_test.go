package resource

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// What a failed get has made goes, read-only directories of a store included;
// the destination itself, a mount point, stays.
func TestDestinationClear(t *testing.T) {
	dir := nixtest.TempDir(t)
	writeFiles(t, dir, map[string]string{resultFile: "{}", "rootfs/nix/store/x/bin/x": "", "path": ""})
	if err := os.Symlink("/etc", filepath.Join(dir, "rootfs/nix/store/x/etc")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rootfs/nix/store/x/bin", "rootfs/nix/store/x"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o555); err != nil {
			t.Fatal(err)
		}
	}
	if err := (destination{dir}).clear(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat("/etc"); err != nil {
		t.Error(err)
	}
}

func TestOpenDestination(t *testing.T) {
	dir := t.TempDir()
	if _, err := openDestination(dir); err != nil {
		t.Error(err)
	}
	writeFiles(t, dir, map[string]string{"leftover": ""})
	for name, dir := range map[string]string{"none": "", "not there": filepath.Join(dir, "x"), "a file": filepath.Join(dir, "leftover"), "not empty": dir} {
		if _, err := openDestination(dir); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
