package build

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

func TestRevision(t *testing.T) {
	sha1 := strings.Repeat("0123456789", 4)
	sha256 := strings.Repeat("01234567", 8)
	for _, test := range []struct {
		name  string
		files map[string]string // of a directory that holds the checkout "it"
		want  string
	}{
		{"detached, as Concourse's git resource leaves it", map[string]string{"it/.git/HEAD": sha1 + "\n", "it/.git/ref": "another"}, sha1},
		{"SHA-256", map[string]string{"it/.git/HEAD": sha256 + "\n"}, sha256},
		{"on a branch", map[string]string{"it/.git/HEAD": "ref: refs/heads/main\n", "it/.git/refs/heads/main": sha1 + "\n"}, sha1},
		{"packed", map[string]string{
			"it/.git/HEAD":        "ref: refs/heads/main\n",
			"it/.git/packed-refs": "# pack-refs with: peeled fully-peeled sorted\n" + strings.Repeat("f", 40) + " refs/heads/main2\n" + sha1 + " refs/heads/main\n^" + strings.Repeat("e", 40) + "\n",
		}, sha1},
		{"loose wins over packed", map[string]string{
			"it/.git/HEAD":            "ref: refs/heads/main\n",
			"it/.git/refs/heads/main": sha1,
			"it/.git/packed-refs":     strings.Repeat("f", 40) + " refs/heads/main\n",
		}, sha1},
		{"a reference to a reference", map[string]string{
			"it/.git/HEAD": "ref: refs/heads/alias\n", "it/.git/refs/heads/alias": "ref: refs/heads/main\n", "it/.git/refs/heads/main": sha1,
		}, sha1},
		{"worktree", map[string]string{
			"it/.git":                          "gitdir: ../main/.git/worktrees/it\n",
			"main/.git/worktrees/it/HEAD":      "ref: refs/heads/topic\n",
			"main/.git/worktrees/it/commondir": "../..\n",
			"main/.git/refs/heads/topic":       sha1 + "\n",
		}, sha1},
		{"submodule", map[string]string{"it/.git": "gitdir: ../.git/modules/it\n", ".git/modules/it/HEAD": sha1}, sha1},
		{"no checkout", map[string]string{"it/default.nix": ""}, ""},
		{"before the first commit", map[string]string{"it/.git/HEAD": "ref: refs/heads/main\n"}, ""},
		{"circle", map[string]string{"it/.git/HEAD": "ref: refs/a\n", "it/.git/refs/a": "ref: refs/a\n"}, ""},
		{"a reference to a file elsewhere", map[string]string{"it/.git/HEAD": "ref: ../../secret\n", "secret": sha1}, ""},
		{"garbage", map[string]string{"it/.git/HEAD": "\x00\xff"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			nixtest.WriteFiles(t, dir, test.files)
			if got := revision(filepath.Join(dir, "it")); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestRevisionOf(t *testing.T) {
	a, b := strings.Repeat("a", 40), strings.Repeat("b", 40)
	for _, test := range []struct {
		name, file string
		files      map[string]string
		want       string
	}{
		{"the checkout that the file is in", "config/hosts/web-1.nix", map[string]string{"config/.git/HEAD": a, "other/.git/HEAD": b}, a},
		{"one inside the other", "config/vendor/x.nix", map[string]string{"config/.git/HEAD": a, "config/vendor/.git/HEAD": b}, b},
		{"a directory that is a checkout", "config", map[string]string{"config/.git/HEAD": a, "other/.git/HEAD": b}, a},
		{"a task's output, made from the only checkout", "built/result", map[string]string{"config/.git/HEAD": a}, a},
		{"a literal path", "", map[string]string{"config/.git/HEAD": a}, a},
		{"which of them can't be told", "built/result", map[string]string{"config/.git/HEAD": a, "other/.git/HEAD": b}, ""},
		{"none", "config/default.nix", nil, ""},
		{"all in one", "default.nix", map[string]string{".git/HEAD": a}, a},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			nixtest.WriteFiles(t, dir, test.files)
			if got := RevisionOf(dir, test.file); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
