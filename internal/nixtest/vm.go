package nixtest

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
)

// VM is a Nix expression for the directory of a QEMU, in qemu, that runs where
// it is moved to, and of a Linux to boot in it, in vmlinuz. It skips the test on
// machines that ci/get has none for.
func VM(t testing.TB) (expression string) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("there is a kernel to boot for amd64 only")
	}
	dir := filepath.Join(checkout(t), ".cache", "vm")
	if _, err := os.Stat(filepath.Join(dir, "vmlinuz")); err != nil {
		missing(t, "there is no QEMU to boot a machine in: run ci/get vm (%v)", err)
	}
	return "/. + " + strconv.Quote(dir)
}
