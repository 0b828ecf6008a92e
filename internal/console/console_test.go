package console

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

func speak(c *Console) {
	c.Overwrite("half way")
	fmt.Fprint(c, "building")
	c.Overwrite("almost")
	c.Overwrite("done")
	c.Say("said %d", 1)
	c.Overwrite("gone")
	c.Overwrite("")
	c.Warn("odd\x1b[2J\r")
	c.Fail(hint.Usage(errors.Join(
		hint.With(errors.New("first"), "do this"),
		fmt.Errorf("second: %w", errors.New("reason")),
	)))
	c.Fail(fmt.Errorf("two: %w and %w", errors.New("one"), errors.New("another")))
	c.Fail(hint.With(fmt.Errorf("web-1: %w", broken{}), "see %s", hint.Term("build_logs")))
}

// A broken build quotes its log.
type broken struct{}

func (broken) Error() string { return "nginx can't be built" }

func (broken) Quotes() iter.Seq2[string, []string] {
	return maps.All(map[string][]string{"the log of nginx ends:": {"checking", "no\x1b[2J good"}})
}

func TestConsolePlain(t *testing.T) {
	var b strings.Builder
	speak(&Console{w: &b})
	want := "building\nsaid 1\nwarning: odd�[2J�\nerror: first\nhint: do this\nerror: second: reason\n" +
		"error: two: one and another\n" +
		"the log of nginx ends:\n  checking\n  no�[2J good\nerror: web-1: nginx can't be built\nhint: see build_logs\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestConsoleLive(t *testing.T) {
	var b strings.Builder
	speak(&Console{w: &b, live: true, colour: true})
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
		red + "error: " + plain + "two: one and another\n",
		red + "the log of nginx ends:" + plain + "\n",
		red + "  checking" + plain + "\n",
		red + "  no�[2J good" + plain + "\n",
		red + "error: " + plain + "web-1: nginx can't be built\n",
		cyan + "hint: " + plain + "see build_logs\n",
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
		if got := New(test.w, func(string) string { return test.buildID }, nil).live; got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// A front has its own word for a term.
func TestAdviceInWords(t *testing.T) {
	var b strings.Builder
	words := func(term hint.Term) string { return map[hint.Term]string{"allow_older": "--allow-older"}[term] }
	New(&b, os.Getenv, words).Fail(hint.With(errors.New("older"), "%s and %s", hint.Term("allow_older"), hint.Term("message")))
	if want := "error: older\nhint: --allow-older and message\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
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
		c, got := New(terminal, func(string) string { return "" }, nil), 0
		if c.columns != nil {
			got = c.columns()
		}
		if !c.live || !c.Colour() || got != want {
			t.Errorf("%+v: live: %v, %d columns to draw in, want %d", size, c.live, got, want)
		}
	}
	for _, test := range []struct {
		name, value  string
		live, colour bool
	}{
		{"TERM", "dumb", false, false},
		{"NO_COLOR", "1", true, false},
		{"NO_COLOR", "", true, true},
	} {
		c := New(terminal, func(name string) string { return map[string]string{test.name: test.value}[name] }, nil)
		if c.live != test.live || c.Colour() != test.colour {
			t.Errorf("%s=%s: live: %v, colour: %v", test.name, test.value, c.live, c.Colour())
		}
	}
}
