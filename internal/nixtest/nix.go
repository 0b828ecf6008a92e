// Package nixtest gives tests the real Nix: a current one and Debian 12's, each
// with empty stores that need neither /nix nor root nor the network, and a
// sample system to put into them.
//
// Stock Nix is the judge of most of what this project promises: what we push
// it must realise, what it pushes we must read, and what we restore it must
// find whole. A test therefore compares with what Nix says, and not with what
// this project's own code would say.
//
// ci/get puts both Nixes into .cache. Where they are missing, tests that
// ask for them are skipped, or fail if NIXOS_CLOSURE_TEST_REQUIRE is 1, as it
// is in `make test`.
package nixtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A Nix is an installed version of it.
type Nix struct {
	Version string   // such as 2.34.8
	bin     string   // the directory of its programs
	conf    string   // what it needs in nix.conf
	json    []string // what it needs to print path infos as JSON
}

// Current is a current Nix, 2.34 or newer.
func Current(t testing.TB) *Nix {
	t.Helper()
	nix := find(t, "current")
	nix.json = []string{"--json-format", "1"}
	return nix
}

// Debian12 is the Nix of Debian 12, 2.8: the oldest one that is still widely
// met. It knows no s3:// caches here, and none of the newer commands.
func Debian12(t testing.TB) *Nix {
	t.Helper()
	nix := find(t, "debian12")
	nix.conf = "build-hook = " + filepath.Join(nix.bin, "build-remote") + "\n"
	return nix
}

// Program is one of its programs.
func (n *Nix) Program(name string) string { return filepath.Join(n.bin, name) }

// Each runs a test with each Nix.
func Each(t *testing.T, test func(t *testing.T, nix *Nix)) {
	t.Run("current", func(t *testing.T) { test(t, Current(t)) })
	t.Run("debian12", func(t *testing.T) { test(t, Debian12(t)) })
}

func find(t testing.TB, name string) *Nix {
	t.Helper()
	bin := filepath.Join(checkout(t), ".cache", "nix", name, "bin")
	out, err := exec.Command(filepath.Join(bin, "nix"), "--version").Output()
	if err != nil {
		missing(t, "there is no Nix in %s: run ci/get (%v)", bin, err)
	}
	fields := strings.Fields(string(out))
	return &Nix{Version: fields[len(fields)-1], bin: bin}
}

func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("NIXOS_CLOSURE_TEST_REQUIRE") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// checkout is the directory of go.mod.
func checkout(t testing.TB) string {
	t.Helper()
	dir, err := findCheckout()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var findCheckout = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			err = os.ErrNotExist
		}
		dir = filepath.Dir(dir)
	}
	return "", err
})
