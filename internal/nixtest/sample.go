package nixtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Sample makes a directory such as a put gets its sources in, with the one
// input config: the expressions of ci/sample, which Nix builds without a
// network. default.nix has the hosts web-1 and web-2, of a dozen paths and
// 2.6 MB, nearly all of which they share; writing to config/motd makes the next
// day's system. edge-cases.nix has what is rarer, fleet.nix many hosts.
func Sample(t testing.TB) (sources string) {
	t.Helper()
	root := checkout(t)
	if _, err := exec.LookPath(filepath.Join(root, ".cache", "busybox", "busybox")); err != nil {
		missing(t, "there is no static busybox for builders: run ci/get (%v)", err)
	}
	sources = t.TempDir()
	cmd := exec.Command(filepath.Join(root, "ci", "sample", "copy"), filepath.Join(sources, "config"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("laying out the sample: %v\n%s", err, out)
	}
	return sources
}

// Fleet is Sample with a flake in config, whose nixosConfigurations are what
// ci/sample/fleet.nix makes of arguments in Nix's language, such as
// "hosts = 50; broken = true;".
func Fleet(t testing.TB, arguments string) (sources string) {
	t.Helper()
	sources = Sample(t)
	flake := "{ outputs = _: { nixosConfigurations = import ./fleet.nix { " + arguments + " }; }; }\n"
	if err := os.WriteFile(filepath.Join(sources, "config", "flake.nix"), []byte(flake), 0o644); err != nil {
		t.Fatal(err)
	}
	return sources
}

// Git runs git in a directory as nobody in particular, whatever this machine's
// settings are, and returns what it printed. The test ends if it fails.
func Git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		missing(t, "there is no git on PATH (%v)", err)
	}
	cmd := exec.Command("git", append([]string{"-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "init.defaultBranch=main", "-c", "safe.directory=*"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}
