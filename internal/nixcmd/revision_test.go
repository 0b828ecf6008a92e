package nixcmd

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A revision is signed with what was built from it, so there is one only where
// the sources are just that; and where they aren't quite, it says so.
func TestRevisionOfFile(t *testing.T) {
	nixtest.Current(t).NewStore(t).Setenv(t)
	store := open(t, nil)
	for _, test := range []struct {
		name  string
		file  string // of the directory "it", which is a checkout of a/default.nix and b.nix with one commit
		spoil func(t *testing.T, it string)
		want  string // "" or -dirty, after the commit; or none
	}{
		{"clean", "b.nix", nil, ""},
		{"a directory", "a", nil, ""},
		{"a symlink from elsewhere", "../link", func(t *testing.T, it string) {
			if err := os.Symlink("it/b.nix", filepath.Join(it, "../link")); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"a branch that is packed", "b.nix", func(t *testing.T, it string) { nixtest.Git(t, it, "pack-refs", "--all") }, ""},
		{"detached", "b.nix", func(t *testing.T, it string) { nixtest.Git(t, it, "checkout", "--quiet", "--detach") }, ""},
		{"a file that git ignores beside it", "b.nix", func(t *testing.T, it string) {
			nixtest.WriteFiles(t, it, map[string]string{".git/info/exclude": "result\n", "result": "1"})
		}, ""},
		{"copied, as Concourse does", "b.nix", func(t *testing.T, it string) {
			for _, args := range [][]string{{"cp", "-r", it, it + ".copy"}, {"rm", "-r", it}, {"mv", it + ".copy", it}} {
				if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %v\n%s", args, err, out)
				}
			}
		}, ""},
		{"edited", "b.nix", func(t *testing.T, it string) { nixtest.WriteFiles(t, it, map[string]string{"b.nix": "2"}) }, "-dirty"},
		{"another file edited", "b.nix", func(t *testing.T, it string) { nixtest.WriteFiles(t, it, map[string]string{"a/default.nix": "2"}) }, "-dirty"},
		{"staged", "b.nix", func(t *testing.T, it string) {
			nixtest.WriteFiles(t, it, map[string]string{"a/default.nix": "2"})
			nixtest.Git(t, it, "add", ".")
		}, "-dirty"},
		{"deleted", "b.nix", func(t *testing.T, it string) {
			if err := os.Remove(filepath.Join(it, "a/default.nix")); err != nil {
				t.Fatal(err)
			}
		}, "-dirty"},
		{"a file that git doesn't know beside it", "b.nix", func(t *testing.T, it string) { nixtest.WriteFiles(t, it, map[string]string{"c.nix": "1"}) }, "-dirty"},
		{"a file that git doesn't know", "c.nix", func(t *testing.T, it string) { nixtest.WriteFiles(t, it, map[string]string{"c.nix": "1"}) }, "none"},
		{"a directory that git doesn't know", "c", func(t *testing.T, it string) { nixtest.WriteFiles(t, it, map[string]string{"c/default.nix": "1"}) }, "none"},
		{"a file that git ignores", "c.nix", func(t *testing.T, it string) {
			nixtest.WriteFiles(t, it, map[string]string{".git/info/exclude": "c.nix\n", "c.nix": "1"})
		}, "none"},
		{"a pattern for others", "*.nix", func(t *testing.T, it string) {
			nixtest.WriteFiles(t, it, map[string]string{".git/info/exclude": "[*].nix\n", "*.nix": "1"})
		}, "none"},
		{"no checkout", "../b.nix", func(t *testing.T, it string) { nixtest.WriteFiles(t, it, map[string]string{"../b.nix": "1"}) }, "none"},
		{"a checkout beside it", "../other/b.nix", func(t *testing.T, it string) { nixtest.WriteFiles(t, it, map[string]string{"../other/b.nix": "1"}) }, "none"},
		{"before the first commit", "b.nix", func(t *testing.T, it string) { nixtest.Git(t, it, "update-ref", "-d", "HEAD") }, "none"},
		{"a checkout that is damaged", "b.nix", func(t *testing.T, it string) { nixtest.WriteFiles(t, it, map[string]string{".git/HEAD": "\x00\xff"}) }, "none"},
		{"nothing at all", "c.nix", nil, "none"},
		{"a program that watches files", "b.nix", func(t *testing.T, it string) { nixtest.Git(t, it, "config", "core.fsmonitor", "touch watched; false") }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			it := filepath.Join(nixtest.TempDir(t), "it")
			nixtest.WriteFiles(t, it, map[string]string{"a/default.nix": "1", "b.nix": "1"})
			for _, args := range [][]string{{"init", "--quiet"}, {"add", "."}, {"commit", "--quiet", "--message", "x"}} {
				nixtest.Git(t, it, args...)
			}
			want := nixtest.Git(t, it, "rev-parse", "HEAD") + test.want
			if test.want == "none" {
				want = ""
			}
			if test.spoil != nil {
				test.spoil(t, it)
			}
			index, _ := os.ReadFile(filepath.Join(it, ".git/index"))
			if got := store.Revision(t.Context(), Installable{File: filepath.Join(it, test.file)}); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if after, _ := os.ReadFile(filepath.Join(it, ".git/index")); !bytes.Equal(index, after) {
				t.Error("it has written to the checkout")
			}
			if _, err := os.Stat(filepath.Join(it, "watched")); err == nil {
				t.Error("it has started a program of the checkout's")
			}
		})
	}
}

// Git would wait for what never comes.
func TestRevisionOfPipes(t *testing.T) {
	nixtest.Current(t).NewStore(t).Setenv(t)
	before := gitPatience
	gitPatience = time.Second
	defer func() { gitPatience = before }()
	dir := nixtest.TempDir(t)
	nixtest.WriteFiles(t, dir, map[string]string{"default.nix": "1"})
	for _, args := range [][]string{{"init", "--quiet"}, {"add", "."}, {"commit", "--quiet", "--message", "x"}} {
		nixtest.Git(t, dir, args...)
	}
	config := filepath.Join(dir, ".git/config")
	if err := errors.Join(os.Remove(config), unix.Mkfifo(config, 0o644)); err != nil {
		t.Fatal(err)
	}
	if got := open(t, nil).Revision(t.Context(), Installable{File: dir}); got != "" {
		t.Errorf("got %s", got)
	}
}

// A checkout further up, such as etckeeper's of /etc or somebody's of their home,
// is not what a file that lies in there was committed to.
func TestRevisionOfFileInSomebodysHome(t *testing.T) {
	nixtest.Current(t).NewStore(t).Setenv(t)
	home := nixtest.TempDir(t)
	nixtest.WriteFiles(t, home, map[string]string{".gitignore": "*\n!.gitignore\n", "hosts/default.nix": "1"})
	for _, args := range [][]string{{"init", "--quiet"}, {"add", "."}, {"commit", "--quiet", "--message", "x"}} {
		nixtest.Git(t, home, args...)
	}
	if got := open(t, nil).Revision(t.Context(), Installable{File: filepath.Join(home, "hosts")}); got != "" {
		t.Errorf("got %s", got)
	}
}

// Of a flake, the revision is what Nix says.
func TestRevisionOfFlake(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs := n.NewStore(t)
		theirs.Setenv(t)
		store := open(t, nil)
		flake, _ := flakes(t, theirs, true)
		at := func(flake string) string {
			return store.Revision(t.Context(), Installable{Flake: flake, Attribute: toplevel("web-1")})
		}
		commit := nixtest.Git(t, flake, "rev-parse", "HEAD")
		if got := at(flake); got != commit {
			t.Errorf("clean: got %q, want %s", got, commit)
		}
		nixtest.WriteFiles(t, flake, map[string]string{"untracked.nix": "1"}) // which doesn't exist to Nix
		if got := at(flake); got != commit {
			t.Errorf("with a file that git doesn't know: got %q, want %s", got, commit)
		}
		if got := at("path:" + flake); got != "" {
			t.Errorf("as a directory: got %q", got)
		}

		nixtest.Git(t, flake, "update-server-info")
		server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(flake, ".git"))))
		defer server.Close()
		if got := at("git+" + server.URL + "/?ref=main"); got != commit {
			t.Errorf("behind a web server: got %q, want %s", got, commit)
		}

		nixtest.WriteFiles(t, flake, map[string]string{"motd": "edited\n"})
		want := regexp.MustCompile("^" + commit + "-dirty$")
		if n.Version == nixtest.Debian12(t).Version { // which doesn't say
			want = regexp.MustCompile("^$")
		}
		if got := at(flake); !want.MatchString(got) {
			t.Errorf("edited: got %q, want %s", got, want)
		}

		// Without a lock there is nothing to evaluate, so nothing is fetched for that.
		var asked []string
		inputs := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.URL.Path) }))
		defer inputs.Close()
		unlocked, _ := flakes(t, theirs, false)
		writeFlake(t, unlocked, `{ inputs.dep = { url = "`+inputs.URL+`/dep.tar.gz"; flake = false; }; outputs = { self, dep }: { }; }`)
		nixtest.Git(t, unlocked, "commit", "--quiet", "--all", "--message", "x")
		if got := at(unlocked); got != "" || len(asked) > 0 {
			t.Errorf("without a lock: got %q, and %q were asked for", got, asked)
		}
	})
}

// Whom a checkout belongs to doesn't matter, as when it is evaluated.
func TestRevisionOfForeignCheckout(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs := n.NewStore(t)
		theirs.Setenv(t)
		flake, _ := flakes(t, theirs, true)
		commit := nixtest.Git(t, flake, "rev-parse", "HEAD")
		if out, err := exec.Command("chown", "-R", "4711", flake).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		store := open(t, nil)
		for _, i := range []Installable{{Flake: flake, Attribute: toplevel("web-1")}, {File: filepath.Join(flake, "default.nix")}} {
			if got := store.Revision(t.Context(), i); got != commit {
				t.Errorf("%s: got %q, want %s", i, got, commit)
			}
		}
	})
}
