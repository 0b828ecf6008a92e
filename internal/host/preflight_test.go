package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// There must be room before anything changes.
func TestNoRoom(t *testing.T) {
	m := newMachine(t)
	m.put("b")
	m.Config.KeepFree = 1 << 60
	outcome := m.comesTo(Waiting)
	if !strings.Contains(outcome.Sentence, "there is no room for generation 2 of web-1") {
		t.Errorf("got the sentence %q", outcome.Sentence)
	}
	if _, err := m.store.Try("nix-store", "--check-validity", m.lab.systems["b"].String()); err == nil {
		t.Error("it was fetched all the same")
	}
	m.is("a", "a", "a")
	m.Config.KeepFree = 1
	m.comesTo(Switched)
}

// So it is in /boot; but what is there already takes no room.
func TestNoRoomForBootFiles(t *testing.T) {
	m := newMachine(t)
	m.Config.Boot = []string{"/proc", m.file("nowhere")} // a file system without any room
	m.put("kernel")
	outcome := m.comesTo(Waiting)
	if !strings.Contains(outcome.Sentence, "there is no room in /proc for the kernel and initrd") {
		t.Errorf("got the sentence %q", outcome.Sentence)
	}
	if got := m.activations(); got != "" {
		t.Errorf("it has activated %q", got)
	}
	m.put("b")
	m.comesTo(Switched)
}

// Somebody else's switch is waited for.
func TestIsLocked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	want := func(want bool) {
		t.Helper()
		got, err := isLocked(file)
		must(t, err)
		if got != want {
			t.Errorf("want %v, got %v", want, got)
		}
	}
	want(false) // there is none
	f, err := os.Create(file)
	must(t, err)
	defer f.Close()
	want(false)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	want(true)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_UN))
	want(false)
}

// A boot loader that there is must have an entry for the system.
func TestCheckBootLoader(t *testing.T) {
	path := somePath(t)
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"none", nil, ""},
		{"systemd-boot", map[string]string{
			"loader/entries/nixos-generation-1.conf": "title NixOS\noptions init=/nix/store/x/init loglevel=4\n",
			"loader/entries/nixos-abc.conf":          "title NixOS\noptions init=" + path.String() + "/init loglevel=4\n",
		}, ""},
		{"systemd-boot without it", map[string]string{
			"loader/entries/nixos-generation-1.conf": "options init=/nix/store/x/init loglevel=4\n",
		}, "no entry of the boot loader has init="},
		{"GRUB", map[string]string{"grub/grub.cfg": "menuentry \"NixOS\" {\n  linux ($drive1)//kernels/k init=" + path.String() + "/init loglevel=4\n}\n"}, ""},
		{"GRUB with another path that begins so", map[string]string{"grub/grub.cfg": "linux k init=" + path.String() + "/init2\n"}, "no entry of the boot loader"},
	} {
		dir := t.TempDir()
		for name, text := range test.files {
			file := filepath.Join(dir, name)
			must(t, os.MkdirAll(filepath.Dir(file), 0o755))
			must(t, os.WriteFile(file, []byte(text), 0o644))
		}
		err := checkBootLoader([]string{filepath.Join(dir, "nowhere"), dir}, path)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: want %q, got %v", test.name, test.want, err)
		}
	}
}
