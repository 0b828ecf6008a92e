package resource

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
)

func speak(c *Console) {
	c.overwrite("half way")
	fmt.Fprint(c, "building")
	c.overwrite("almost")
	c.overwrite("done")
	c.Say("said %d", 1)
	c.overwrite("gone")
	c.overwrite("")
	c.Warn("odd\x1b[2J\r")
	c.Fail(mistakes{
		hint.With(errors.New("first"), "do this"),
		fmt.Errorf("second: %w", errors.New("reason")),
	})
	c.Fail(fmt.Errorf("web-1: %w", &nixstore.BuildError{Failed: []nixstore.Failure{
		{Derivation: failing, Reason: "builder failed with exit code 1", LastLines: []string{"checking", "no\x1b[2J good"}},
	}}))
}

var failing, _ = nix.ParseStorePath("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nginx.drv")

func TestConsolePlain(t *testing.T) {
	var b strings.Builder
	speak(&Console{w: &b})
	want := "building\nsaid 1\nwarning: odd�[2J�\nerror: first\nhint: do this\nerror: second: reason\n" +
		"the log of nginx.drv ends:\n  checking\n  no�[2J good\nerror: web-1: " + failing.String() + " can't be built: builder failed with exit code 1\n" +
		"hint: nix log " + failing.String() + " shows all that it said, where it was built or, with build_logs, from the cache\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestConsoleLive(t *testing.T) {
	var b strings.Builder
	speak(&Console{w: &b, live: true})
	want := strings.Join([]string{
		"half way",
		"\r        \rbuilding",
		"\nalmost",
		"\r      \rdone",
		"\r    \rsaid 1\n",
		"gone",
		"\r    \r",
		yellow + "warning: " + plain + "odd�[2J�\n",
		red + "error: " + plain + "first\n",
		cyan + "hint: " + plain + "do this\n",
		red + "error: " + plain + "second: reason\n",
		red + "the log of nginx.drv ends:" + plain + "\n",
		red + "  checking" + plain + "\n",
		red + "  no�[2J good" + plain + "\n",
		red + "error: " + plain + "web-1: " + failing.String() + " can't be built: builder failed with exit code 1\n",
		cyan + "hint: " + plain + "nix log " + failing.String() + " shows all that it said, where it was built or, with build_logs, from the cache\n",
	}, "")
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Somebody is watching a pipe in a build of Concourse, and neither another pipe
// nor a file.
func TestConsoleIsLive(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer pipe.Close()
	for _, test := range []struct {
		name    string
		w       *os.File
		buildID string
		want    bool
	}{
		{"pipe in Concourse", pipe, "1", true},
		{"pipe elsewhere", pipe, "", false},
		{"file in Concourse", file, "1", false},
	} {
		if got := NewConsole(test.w, func(string) string { return test.buildID }).live; got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// On a terminal progress is drawn for who sits before it; in a task, which has
// one, too, as in any other step.
func TestConsoleOfTask(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	defer master.Close()
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	for size, want := range map[unix.Winsize]int{
		{Col: 80, Row: 24}:   80,
		{Col: 500, Row: 60}:  500,
		{Col: 500, Row: 500}: 0,
	} {
		if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &size); err != nil {
			t.Fatal(err)
		}
		c, got := NewConsole(terminal, func(string) string { return "" }), 0
		if c.columns != nil {
			got = c.columns()
		}
		if !c.live || got != want {
			t.Errorf("%+v: live: %v, %d columns to draw in, want %d", size, c.live, got, want)
		}
	}
}
