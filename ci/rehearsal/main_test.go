package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The tutorial is what happens, word for word. To write it anew:
//
//	make --silent rehearsal >docs/tutorial.md
func TestTutorial(t *testing.T) {
	programs := prepareMachine(t)
	tutorial, err := os.ReadFile("docs/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := rehearse(context.Background(), programs, &got); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(comparable(string(tutorial)), comparable(got.String())); diff != "" {
		t.Errorf("docs/tutorial.md says (-) what does not happen (+):\n%s", diff)
	}
}

// prepareMachine builds the programs, and puts a Nix on PATH, in the directory of
// this repository. Where there can be no containers, the test is skipped.
func prepareMachine(t *testing.T) (programs string) {
	t.Helper()
	if out, err := exec.Command(concourse.Unshare()[0], append(concourse.Unshare()[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("this machine gives us no namespaces to run tasks in: %v\n%s", err, out)
	}
	store := nixtest.Current(t).NewStore(t)
	programs = t.TempDir()
	if out, err := exec.Command("go", "build", "-o", programs+"/", "../../cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, v := range store.Env() {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			t.Setenv("PATH", path)
		}
	}
	t.Chdir("../..")
	return programs
}

// comparable leaves out what depends on the busybox that the sample is built
// with.
func comparable(text string) string {
	return regexp.MustCompile(`[0-9.]+ ([KMG]i)?B\b`).ReplaceAllString(text, "… B")
}
