package main

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// prepareMachine builds the programs, and puts a Nix on PATH, in the directory of
// this repository. Where there can be no containers, the test is skipped.
func prepareMachine(t *testing.T) (programs string) {
	t.Helper()
	if out, err := exec.Command(concourse.Unshare()[0], append(concourse.Unshare()[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("this machine gives us no namespaces to run tasks in: %v\n%s", err, out)
	}
	store := nixtest.Current(t).NewStore(t)
	programs = t.TempDir()
	if err := nixtest.BuildPrograms(programs+"/", "", "../../cmd/..."); err != nil {
		t.Fatal(err)
	}
	for _, v := range store.Env() {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			t.Setenv("PATH", path)
		}
	}
	t.Chdir("../..")
	return programs
}
