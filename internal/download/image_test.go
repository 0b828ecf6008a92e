package download

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Paths of the closures that images are made of here.
const (
	shellPath   = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-bash-5.2"
	busyboxPath = "/nix/store/1b9p07z77phvv2hf6gm9f28syp39f1ag-busybox-1.37"
	cacertPath  = "/nix/store/2vs2zarb9vvsvl6n3mmrlvl0d45ni4z5-nss-cacert-3.108"
	rootPath    = "/nix/store/zzzz7hzq6c3fcp4rv8pf3q5d19kbcscv-root"
)

func TestMakeImage(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string // of the closure: what is in them, or "-> " and where they lead; programs end in sh
		want  map[string]string // of the image, besides what is in every one
	}{
		{"a program alone", map[string]string{rootPath: "the program"}, nil},
		{"a directory", map[string]string{rootPath + "/bin/hello": ""}, nil},
		{"a system",
			map[string]string{
				rootPath + "/sw":                            "-> " + shellPath,
				rootPath + "/etc":                           "-> " + cacertPath + "/etc",
				rootPath + "/bin/sh":                        "",
				shellPath + "/bin/sh":                       "",
				cacertPath + "/etc/ssl/certs/ca-bundle.crt": "",
				busyboxPath + "/bin/sh":                     "",
			},
			map[string]string{shell: "/closure/sw/bin/sh", caCertificates: "/closure" + caBundle}},
		{"a shell of its own", map[string]string{rootPath + "/bin/sh": "", shellPath + "/bin/sh": ""},
			map[string]string{shell: "/closure/bin/sh"}},
		{"bash and certificates somewhere",
			map[string]string{rootPath + "/bin/x": "", busyboxPath + "/bin/sh": "", shellPath + "/bin/sh": "", cacertPath + "/etc/ssl/certs/ca-bundle.crt": ""},
			map[string]string{shell: shellPath + "/bin/sh", caCertificates: cacertPath + caBundle}},
		{"busybox, by a relative link of a link",
			map[string]string{rootPath + "/bin/x": "", busyboxPath + "/bin/sh": "-> ../default/sh", busyboxPath + "/default": "-> ../" + filepath.Base(busyboxPath) + "/real", busyboxPath + "/real/sh": ""},
			map[string]string{shell: busyboxPath + "/bin/sh"}},
		{"a shell that is a link to what isn't there", map[string]string{rootPath + "/bin/sh": "-> /nix/store/gone/bin/sh"}, nil},
		{"a shell that is a directory", map[string]string{rootPath + "/bin/sh/sh": ""}, nil},
		{"a shell that can't be executed", map[string]string{rootPath + "/bin/sh": "-> text", rootPath + "/bin/text": ""}, nil},
		{"links in a circle", map[string]string{rootPath + "/bin/sh": "-> sh"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			dest, closure := destinationWith(t, test.files)
			if err := makeImage(dest, closure, nil); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{
				"/closure": rootPath, "/etc/passwd": "-rw-r--r--", "/etc/group": "-rw-r--r--", "/root": "drwx------", "/tmp": "dtrwxrwxrwx",
			}
			for name, target := range test.want {
				want[name] = target
			}
			if diff := cmp.Diff(want, besidesStore(t, dest.path("rootfs"))); diff != "" {
				t.Errorf("the image (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(taskImage{[]string{"PATH=/closure/bin:/closure/sw/bin:/bin"}, "root"}, readTaskImage(t, dest.dir)); diff != "" {
				t.Errorf("metadata.json (-want +got)\n%s", diff)
			}
			passwd, err := os.ReadFile(dest.path("rootfs/etc/passwd"))
			if err != nil || !strings.HasPrefix(string(passwd), "root:x:0:0:") {
				t.Errorf("the user isn't in etc/passwd: %s (%v)", passwd, err)
			}
		})
	}
}

// A closure whose symlinks lead out of the image, where there is a shell and a
// directory that anybody may write to, makes no difference to what is there.
func TestMakeImageOfHostileClosure(t *testing.T) {
	outside := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "sh"), nil, 0o755),
		os.WriteFile(filepath.Join(outside, "ca-bundle.crt"), nil, 0o644),
	); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 40) + outside[1:]
	for name, files := range map[string]map[string]string{
		"absolute":         {rootPath + "/bin": "-> " + outside, rootPath + "/sw/bin": "-> " + outside, rootPath + "/etc/ssl/certs": "-> " + outside},
		"upwards":          {rootPath + "/bin": "-> " + up, rootPath + "/sw/bin": "-> " + up, rootPath + "/etc/ssl/certs": "-> " + up},
		"the root itself":  {rootPath: "-> " + outside},
		"the root upwards": {rootPath: "-> " + up},
	} {
		t.Run(name, func(t *testing.T) {
			dest, closure := destinationWith(t, files)
			if err := makeImage(dest, closure, nil); err != nil {
				t.Fatal(err)
			}
			got := besidesStore(t, dest.path("rootfs"))
			for _, name := range []string{shell, caCertificates} {
				if target, ok := got[name]; ok {
					t.Errorf("%s leads to %s, which leads out", name, target)
				}
			}
			if diff := cmp.Diff(map[string]string{"/sh": "-rwxr-xr-x", "/ca-bundle.crt": "-rw-r--r--"}, besidesStore(t, outside)); diff != "" {
				t.Errorf("outside (-want +got)\n%s", diff)
			}
		})
	}
}

// destinationWith is one whose rootfs has the files of a closure.
func destinationWith(t *testing.T, files map[string]string) (destination, *cache.Closure) {
	t.Helper()
	dest := destination{dir: t.TempDir()}
	paths := map[string]bool{rootPath: true}
	for name, content := range files {
		paths[strings.Join(strings.SplitN(name, "/", 5)[:4], "/")] = true
		file := dest.path("rootfs" + name)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = errors.Join(err, os.Symlink(target, file))
		} else {
			mode := fs.FileMode(0o644)
			if strings.HasSuffix(name, "sh") {
				mode = 0o755
			}
			err = errors.Join(err, os.WriteFile(file, []byte(content), mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	closure := &cache.Closure{}
	for _, text := range []string{busyboxPath, shellPath, cacertPath, rootPath} {
		path, err := nix.ParseStorePath(text)
		if err != nil {
			t.Fatal(err)
		}
		if paths[text] {
			closure.Paths = append(closure.Paths, cache.NarInfo{PathInfo: nix.PathInfo{Path: path}})
		}
		closure.Root = path
	}
	return dest, closure
}

// besidesStore is what a directory has besides /nix: where symlinks lead, and
// the modes of files and of directories in which there is nothing.
func besidesStore(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(file, dir)
		if name == "/nix" {
			return fs.SkipDir
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		found[name] = info.Mode().String()
		if entry.Type() == fs.ModeSymlink {
			found[name], err = os.Readlink(file)
		}
		delete(found, filepath.Dir(name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(found, "")
	delete(found, "/")
	return found
}

// A taskImage is how Concourse reads metadata.json.
type taskImage struct {
	Env  []string `json:"env"`
	User string   `json:"user"`
}

func readTaskImage(t *testing.T, dest string) (image taskImage) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dest, "metadata.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &image); err != nil {
		t.Fatal(err)
	}
	return image
}
