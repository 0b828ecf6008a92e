package resource

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

const (
	hello = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-hello-2.12"
	world = "/nix/store/1b9p07z77phvv2hf6gm9f28syp39f1ag-world-1.0"
)

// sources makes the inputs "config" and "built" of a put.
func sources(t *testing.T) *inputs {
	dir := t.TempDir()
	nixtest.WriteFiles(t, dir, map[string]string{
		"config/default.nix": "",
		"built/path":         hello + "\n",
		"built/two":          hello + "\n" + world + "\n",
		"built/log":          "all is well\n",
		"built/generation":   "12",
		"before/generation":  "twelve\n",
	})
	for name, target := range map[string]string{
		"built/result": hello, "built/again": "result", "built/deep": hello + "/bin/hello", "built/out": "/etc/hostname", "built/up": "../../x",
		"built/circle": "circle2", "built/circle2": "circle", "built/dangling": "nowhere", "config/etc": "/etc",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	in, err := openInputs(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return in
}

func TestInputsStorePath(t *testing.T) {
	in := sources(t)
	for _, test := range []struct {
		name, want string
		told       []string
	}{
		{name: "built/result", want: hello},
		{name: "built/again", want: hello},
		{name: "built/path", want: hello},
		{name: "./built//path", want: hello},
		{name: "built/two", told: []string{"error: built/two holds something else than a store path: want one line, /nix/store/<hash>-<name>"}},
		{name: "built/log", told: []string{"error: built/log holds something else than a store path: want one line, /nix/store/<hash>-<name>"}},
		{name: "built", told: []string{"error: built is a directory", "hint: name a symlink to a store path in it, such as built/result, or a file that holds one"}},
		{name: "built/deep", told: []string{"error: built/deep leads to " + hello + "/bin/hello, which is not a store path but something in one"}},
		{name: "built/out", told: []string{"error: built/out leads to /etc/hostname, which is neither in the sources nor a store path"}},
		{name: "built/up", told: []string{"error: ../x is not in the sources", "hint: name it by its input and its path in there: config/default.nix"}},
		{name: "built/circle", told: []string{"error: built/circle: too many levels of symbolic links"}},
		{name: "../built/path", told: []string{"error: ../built/path is not in the sources", "hint: name it by its input and its path in there: config/default.nix"}},
		{name: "buitl/path", told: []string{
			"error: buitl/path: this put has no input buitl (its inputs: before, built, config)",
			"hint: a put sees only those inputs that begin a string of its params, or those that it lists: inputs: [buitl]",
		}},
		{name: "built/reslut", told: []string{"error: built/reslut: there is no reslut in the input built", "hint: did you mean built/result?"}},
		{name: "built/dangling", told: []string{"error: built/nowhere: there is no nowhere in the input built"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := in.storePath(test.name)
			if diff := cmp.Diff(test.told, told(err)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got.String() != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestInputsPath(t *testing.T) {
	in := sources(t)
	for _, test := range []struct{ name, want string }{
		{"config/default.nix", ""},
		{"config", ""},
		{"config/none.nix", "config/none.nix: there is no none.nix in the input config"},
		{"/etc/passwd", "/etc/passwd is not in the sources"},
		{"config/../../x", "config/../../x is not in the sources"},
		{"config/etc/passwd", "config/etc/passwd: a symlink leads out of the sources there"},
	} {
		got, err := in.path(test.name)
		switch {
		case err != nil && err.Error() != test.want:
			t.Errorf("%s: got %q, want %q", test.name, err, test.want)
		case err == nil && (test.want != "" || got != filepath.Join(in.dir, test.name)):
			t.Errorf("%s: got %s, want %q", test.name, got, test.want)
		}
	}
}

func TestInputsGeneration(t *testing.T) {
	in := sources(t)
	if got, err := in.generation("built"); got != 12 || err != nil {
		t.Errorf("got %d, %v, want 12", got, err)
	}
	for name, want := range map[string]string{
		"before": `before/generation: "twelve" is not the number of a generation: want 1, 2, 3, …`,
		"config": "config/generation: there is no generation in the input config",
		"..":     ".. is not in the sources",
	} {
		if _, err := in.generation(name); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
}

// What an earlier step has left may be of any kind and size. No reader waits for
// it, or reads it to its end.
func TestInputsOfOtherKinds(t *testing.T) {
	in := sources(t)
	for _, dir := range []string{"pipe", "huge"} {
		nixtest.WriteFiles(t, in.dir, map[string]string{dir + "/pointer": "web-1\n"})
	}
	for _, name := range []string{"generation", "generation.json", "path"} {
		if err := unix.Mkfifo(filepath.Join(in.dir, "pipe", name), 0o644); err != nil {
			t.Fatal(err)
		}
		huge := filepath.Join(in.dir, "huge", name)
		if err := errors.Join(os.WriteFile(huge, nil, 0o644), os.Truncate(huge, 6<<30)); err != nil {
			t.Fatal(err)
		}
	}
	for dir, want := range map[string]string{"pipe": "it is not a regular file", "huge": "it has 6442450944 bytes, and may have "} {
		_, generationErr := in.generation(dir)
		_, promotionErr := in.promotion(dir)
		_, pathErr := in.storePath(dir + "/path")
		for _, err := range []error{generationErr, promotionErr} {
			if err == nil || !strings.Contains(err.Error(), dir+"/generation") || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
		if pathErr == nil {
			t.Errorf("%s/path was taken for a store path", dir)
		}
	}
}
