package nixcmd

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A flake of the sample, with one input that is the other directory.
const sampleFlake = `{
	inputs.dep = { url = "path:DEP"; flake = false; };
	outputs = { self, dep }: {
		nixosConfigurations = {
			web-1.config.system.build.toplevel = (import ./default.nix).web-1;
			"web-1.example.org".config.system.build.toplevel = with import ./lib.nix; build "quoted-${import dep}" { } "mkdir $out";
			"100 % a^b#c".config.system.build.toplevel = with import ./lib.nix; build "odd" { } "mkdir $out";
			impure.config.system.build.toplevel = with import ./lib.nix; build "impure-${builtins.getEnv "TZ"}-${builtins.currentSystem or "none"}" { } "mkdir $out";
			reads.config.system.build.toplevel = import <nixpkgs> { };
			untracked.config.system.build.toplevel = import ./untracked.nix;
		};
	};
}
`

// flakes makes the sample a flake in a git checkout, locked unless that is left
// to the caller, and the directory that its input leads to.
func flakes(t *testing.T, theirs *nixtest.Store, locked bool) (flake, dep string) {
	t.Helper()
	sources := nixtest.Sample(t)
	flake, dep = filepath.Join(sources, "config"), filepath.Join(sources, "dep")
	for _, dir := range []string{dep, filepath.Join(sources, "other")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "default.nix"), []byte(`"`+filepath.Base(dir)+`"`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	writeFlake(t, flake, strings.ReplaceAll(sampleFlake, "DEP", dep))
	nixtest.Git(t, flake, "init", "--quiet")
	nixtest.Git(t, flake, "add", ".")
	if locked {
		theirs.Run(t, "nix", "flake", "lock", "--extra-experimental-features", "flakes", flake)
		nixtest.Git(t, flake, "add", ".")
	}
	nixtest.Git(t, flake, "commit", "--quiet", "--message", "x")
	return flake, dep
}

func writeFlake(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func toplevel(host string) string {
	return `nixosConfigurations."` + host + `".config.system.build.toplevel`
}

func TestEvaluateFlake(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs := n.NewStore(t)
		theirs.Setenv(t)
		flake, dep := flakes(t, theirs, true)
		other := filepath.Join(filepath.Dir(dep), "other")
		t.Setenv("TZ", "UTC")
		store := open(t, nil)
		for _, test := range []struct {
			installable Installable
			want        string // name
		}{
			{Installable{Flake: flake, Attribute: toplevel("web-1")}, "nixos-system-web-1-25.05"},
			{Installable{Flake: flake, Attribute: toplevel("web-1.example.org")}, "quoted-dep"},
			{Installable{Flake: flake, Attribute: toplevel("100 % a^b#c")}, "odd"},
			{Installable{Flake: flake, Attribute: toplevel("web-1.example.org"), OverrideInputs: map[string]string{"dep": "path:" + other}}, "quoted-other"},
			{Installable{Flake: flake, Attribute: toplevel("impure")}, "impure--none"},
			{Installable{Flake: flake, Attribute: toplevel("impure"), Impure: true, System: "riscv64-linux"}, "impure-UTC-riscv64-linux"},
		} {
			got, err := store.Evaluate(t.Context(), test.installable)
			if err != nil || got.Name != test.want || got.OutPath.Name() != test.want {
				t.Errorf("%+v: got %+v, error %v, want %s", test.installable, got, err, test.want)
			}
		}
		if got, want := evaluate(t, store, Installable{Flake: flake, Attribute: toplevel("web-1")}).OutPath, theirs.Build(t, flake, "web-1"); got != want {
			t.Errorf("got %s of the flake, and %s of the file", got, want)
		}

		_, err := store.Evaluate(t.Context(), Installable{Flake: flake, Attribute: toplevel("reads")})
		want := toplevel("reads") + " of " + flake + " can't be evaluated: cannot look up '<nixpkgs>' in pure evaluation mode"
		if err == nil || !strings.HasPrefix(err.Error(), want) || !slices.Equal(hint.Of(err), []string{"a flake may look at the machine with impure: true"}) {
			t.Errorf("got error %v with hints %q, want %s", err, hint.Of(err), want)
		}

		// Nix sees what git knows, and says so.
		if err := os.WriteFile(filepath.Join(flake, "untracked.nix"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Evaluate(t.Context(), Installable{Flake: flake, Attribute: toplevel("untracked")}); err == nil || !strings.Contains(err.Error(), "untracked.nix") {
			t.Errorf("got error %v, want one that names the untracked file", err)
		}
		if status := nixtest.Git(t, flake, "status", "--porcelain"); status != "?? untracked.nix" {
			t.Errorf("git status says\n%s", status)
		}
	})
}

// A lock file that is missing, or that doesn't fit, is an error before anything
// is fetched or overridden, and none is written.
func TestEvaluateUnlocked(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs := n.NewStore(t)
		theirs.Setenv(t)
		for _, test := range []struct {
			name  string
			spoil func(flake, dep string) error // nil: nothing was ever locked
			want  string
		}{
			{"missing", nil, "the flake FLAKE has inputs (dep), but no flake.lock"},
			{"not committed", func(flake, dep string) error {
				nixtest.Git(t, flake, "rm", "--quiet", "--cached", "flake.lock")
				return nil
			}, "the flake.lock of FLAKE doesn't fit its flake.nix"},
			{"stale", func(flake, dep string) error {
				writeFlake(t, flake, strings.ReplaceAll(sampleFlake, "DEP", filepath.Join(filepath.Dir(dep), "other")))
				return nil
			}, "the flake.lock of FLAKE doesn't fit its flake.nix"},
			{"of one input more", func(flake, dep string) error {
				writeFlake(t, flake, strings.Replace(strings.ReplaceAll(sampleFlake, "DEP", dep), "{", "{ inputs.more = { url = \"path:"+dep+"\"; flake = false; };", 1))
				return nil
			}, "the flake.lock of FLAKE doesn't fit its flake.nix"},
		} {
			flake, dep := flakes(t, theirs, test.spoil != nil)
			if test.spoil != nil {
				if err := test.spoil(flake, dep); err != nil {
					t.Fatal(err)
				}
			} else if err := os.RemoveAll(dep); err != nil { // what can't be fetched doesn't come first
				t.Fatal(err)
			}
			before := files(t, flake)
			for _, overrides := range []map[string]string{nil, {"dep": "path:" + filepath.Join(filepath.Dir(dep), "other")}} {
				_, err := open(t, nil).Evaluate(t.Context(), Installable{Flake: flake, Attribute: toplevel("web-1"), OverrideInputs: overrides})
				if want := strings.ReplaceAll(test.want, "FLAKE", flake); err == nil || err.Error() != want || len(hint.Of(err)) != 1 {
					t.Errorf("%s, overridden %v: got error\n%v\nwith hints %q, want\n%s\nand a hint", test.name, overrides, err, hint.Of(err), want)
				}
			}
			if diff := cmp.Diff(before, files(t, flake)); diff != "" {
				t.Errorf("%s: the flake has changed (-before +after)\n%s", test.name, diff)
			}
		}

		// Without inputs there is nothing to lock.
		sources := nixtest.Sample(t)
		flake := filepath.Join(sources, "config")
		writeFlake(t, flake, `{ outputs = { self }: { host = (import ./default.nix).web-1; }; }`)
		evaluate(t, open(t, nil), Installable{Flake: flake, Attribute: "host"})
	})
}

// files are the contents of the files in a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	contents := map[string]string{}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if data, err := os.ReadFile(name); err == nil {
			contents[filepath.Base(name)] = string(data)
		}
	}
	return contents
}

// A flake may lie elsewhere, in a git repository behind a web server, say.
func TestEvaluateRemoteFlake(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs := n.NewStore(t)
		theirs.Setenv(t)
		flake, _ := flakes(t, theirs, true)
		nixtest.Git(t, flake, "update-server-info")
		server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(flake, ".git"))))
		defer server.Close()
		i := Installable{Flake: "git+" + server.URL + "/?ref=main", Attribute: toplevel("web-1")}
		store := open(t, nil)
		if d, err := store.Evaluate(t.Context(), i); err != nil || d.Name != "nixos-system-web-1-25.05" {
			t.Errorf("got %+v, error %v", d, err)
		}

		nixtest.Git(t, flake, "rm", "--quiet", "flake.lock")
		nixtest.Git(t, flake, "commit", "--quiet", "--message", "x")
		nixtest.Git(t, flake, "update-server-info")
		i.Flake += "&rev=" + nixtest.Git(t, flake, "rev-parse", "HEAD")
		_, err := store.Evaluate(t.Context(), i)
		if err == nil || !strings.HasSuffix(err.Error(), " doesn't fit its flake.nix") {
			t.Errorf("without a lock: got error %v", err)
		}
	})
}

// A checkout that another user owns works, as a flake and as what overrides an
// input; one that lies in somebody else's doesn't become his.
func TestEvaluateForeignCheckout(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs := n.NewStore(t)
		theirs.Setenv(t)
		t.Setenv("TMPDIR", t.TempDir())
		flake, dep := flakes(t, theirs, true)
		other := filepath.Join(filepath.Dir(dep), "other")
		nixtest.Git(t, other, "init", "--quiet")
		nixtest.Git(t, other, "add", ".")
		nixtest.Git(t, other, "commit", "--quiet", "--message", "x")
		for _, dir := range []string{flake, other} {
			if out, err := exec.Command("chown", "-R", "4711", dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}

		// The user's settings are still there.
		own := os.Getenv("XDG_CONFIG_HOME")
		for name, text := range map[string]string{"git/config": "[user]\n\tname = somebody\n", "nix/nix.conf": ""} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(own, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(own, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		installable := Installable{Flake: flake, Attribute: toplevel("web-1.example.org"), OverrideInputs: map[string]string{"dep": other}}
		var log bytes.Buffer
		store := open(t, &log)
		if d, err := store.Evaluate(t.Context(), installable); err != nil || d.Name != "quoted-other" {
			t.Errorf("got %+v, error %v, and the log\n%s", d, err, &log)
		}
		trusting, untrust, err := store.trusting(installable)
		if err != nil {
			t.Fatal(err)
		}
		var name bytes.Buffer
		if err := trusting.run(t.Context(), &name, nil, "git", "config", "--global", "--includes", "user.name"); err != nil || name.String() != "somebody\n" {
			t.Errorf("git's user is %q, error %v", &name, err)
		}
		untrust()
		if left, _ := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "nixos-closure-*")); left != nil {
			t.Errorf("left behind: %v", left)
		}

		if !strings.HasPrefix(n.Version, "2.8.") { // which clones submodules from where they come from
			if out, err := exec.Command("chown", "-R", fmt.Sprint(os.Geteuid()), other).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			super := filepath.Join(filepath.Dir(dep), "super")
			if err := os.Mkdir(super, 0o755); err != nil {
				t.Fatal(err)
			}
			writeFlake(t, super, `{ outputs = _: { host = derivation { name = import ./sub; system = "x86_64-linux"; builder = "none"; }; }; }`)
			nixtest.Git(t, super, "init", "--quiet")
			nixtest.Git(t, super, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", other, "sub")
			nixtest.Git(t, super, "add", ".")
			nixtest.Git(t, super, "commit", "--quiet", "--message", "x")
			if out, err := exec.Command("chown", "-R", "4711", super).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if d := evaluate(t, store, Installable{Flake: super + "?submodules=1", Attribute: "host"}); d.Name != "other" {
				t.Errorf("of a checkout with a submodule: got %+v", d)
			}
		}

		inside := filepath.Join(flake, "inside")
		if err := os.Mkdir(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, owner := range []int{os.Geteuid(), 4712} {
			if err := syscall.Chown(inside, owner, owner); err != nil {
				t.Fatal(err)
			}
			if top := foreignCheckout(inside); top != "" {
				t.Errorf("what %d has in a checkout of 4711 makes %s trusted", owner, top)
			}
		}
	})
}

// Git is told of the submodules of submodules, too, and of none outside; and what
// lists them is read within bounds.
func TestRepositories(t *testing.T) {
	dir := t.TempDir()
	nixtest.WriteFiles(t, dir, map[string]string{
		"top/.gitmodules":        "[submodule \"mid\"]\n\tpath = mid\n\turl = x\n[submodule \"out\"]\n\tpath = ../outside\n",
		"top/mid/.gitmodules":    "[submodule \"inner\"]\n\tpath = lib/inner\n",
		"top/mid/lib/inner/file": "",
		"outside/.gitmodules":    "",
		"loop/.gitmodules":       "[submodule \"loop\"]\n\tpath = again\n",
		"pipe/file":              "",
	})
	if err := os.Symlink(".", filepath.Join(dir, "loop", "again")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "pipe", ".gitmodules"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"top":  {"top", "top/.git", "top/mid", "top/mid/.git", "top/mid/lib/inner", "top/mid/lib/inner/.git"},
		"pipe": {"pipe", "pipe/.git"},
	} {
		var got []string
		for _, repository := range repositories(filepath.Join(dir, name)) {
			got = append(got, strings.TrimPrefix(repository, dir+"/"))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	if n := len(repositories(filepath.Join(dir, "loop"))); n > 2*maxRepositories {
		t.Errorf("a checkout in itself has %d repositories", n)
	}
}
