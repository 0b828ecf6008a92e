package nixtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// SSH makes sure that there is an ssh on PATH until the test ends. Call it before
// [Store.Env], which takes PATH as it is.
func SSH(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("ssh"); err == nil {
		return
	}
	bin := filepath.Join(checkout(t), ".cache", "ssh", "bin")
	if _, err := os.Stat(filepath.Join(bin, "ssh")); err != nil {
		missing(t, "there is no ssh: run ci/get (%v)", err)
	}
	t.Setenv("PATH", os.Getenv("PATH")+string(filepath.ListSeparator)+bin)
}
