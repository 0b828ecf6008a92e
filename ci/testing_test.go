package ci_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The line of docs/testing.md by which a task with a Nix takes what a get has
// left, word for word: all but the check itself comes from there.
func TestSubstituterLine(t *testing.T) {
	line := regexp.MustCompile(`(?m)^nix build \.#checks.*$`).Find(read(t, "../docs/testing.md"))
	if line == nil {
		t.Fatal("docs/testing.md has no such line")
	}
	n := nixtest.Current(t)
	key := nixtest.NewKey(t, "cache.example.org-1")
	config := filepath.Join(nixtest.Sample(t), "config")
	commit(t, config, "flake.nix", `{
  outputs = _: {
    checks.x86_64-linux.web-1 = (import ./lib.nix).build "check-web-1" { candidate = (import ./.).web-1; } "cat $candidate/nixos-version > $out";
  };
}`, "Begin")

	program := filepath.Join(t.TempDir(), "nixos-closure")
	if err := nixtest.BuildPrograms(program, "", "../cmd/nixos-closure"); err != nil {
		t.Fatal(err)
	}
	builder, cache := n.NewStore(t), filepath.Join(t.TempDir(), "cache")
	for _, args := range [][]string{
		{"push", "--file", filepath.Join(config, "default.nix"), "--attribute", "web-1"},
		{"fetch", "1", filepath.Join(config, "web-1"), "--format", "cache"},
	} {
		cmd := exec.Command(program, args...)
		cmd.Env = append(builder.Env(), "NIXOS_CLOSURE_CACHE=file://"+cache, "NIXOS_CLOSURE_POINTER=web-1", "NIXOS_CLOSURE_SIGNING_KEY="+key.Secret)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("nixos-closure %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}

	empty := n.NewStore(t)
	cmd := exec.Command("sh", "-euc", string(line))
	cmd.Dir = config
	cmd.Env = append(empty.Env(), "KEY="+key.Public)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, string(out), "copying path '/nix/store/", "-nixos-system-web-1-25.05' from 'file://")
	for _, info := range empty.All(t) {
		if info.Path.Name() == "nixos-system-web-1-25.05" && len(info.Signatures) == 0 {
			t.Errorf("%s was built, not taken from the get", info.Path)
		}
	}
}

// A current Nix that the machine has is used as it is, by whatever name it is
// found: also if that is where it was linked to before.
func TestGetUsesTheMachinesNix(t *testing.T) {
	n, checkout := nixtest.Current(t), t.TempDir()
	if err := os.CopyFS(filepath.Join(checkout, "ci"), os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	linked := filepath.Join(checkout, ".cache/nix/current/bin")
	for _, bin := range []string{filepath.Dir(n.Program("nix")), linked} {
		cmd := exec.Command(filepath.Join(checkout, "ci/get"), "current")
		cmd.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if out, err := exec.Command(filepath.Join(linked, "nix"), "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), n.Version) {
			t.Errorf("with %s on PATH: got %s (%v), want Nix %s", bin, out, err, n.Version)
		}
	}
}
