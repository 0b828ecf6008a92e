package resource

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/term"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
)

// A Console is where people read: a build's log in Concourse, a terminal, or a
// file. Everything that this project says to people goes through one, by these
// rules: what went wrong after "error:", what seems wrong after "warning:",
// what to do about it on a line of its own after "hint:"; lower case, no full
// stop, no secret. An unhelpful error is a bug.
//
// Where a person is watching there is colour, and one line of progress, which
// stays the last line and is overwritten in place. A plain file gets neither.
type Console struct {
	live    bool       // a person is watching
	columns func() int // how wide their terminal is; nil if it isn't one

	mu    sync.Mutex
	w     io.Writer
	width int  // of the line of progress that stands there now, in bytes, all of them ASCII
	mid   bool // what was passed through ended in the middle of a line
}

// taskTerminal is how wide and how high Concourse says that the terminal of each
// task is, which is no terminal but the log of a build (concourse/concourse,
// atc/exec/task_step.go).
const taskTerminal = 500

// NewConsole returns the console on w. A person is watching if w is a terminal,
// or a pipe in a step of Concourse, which sets BUILD_ID.
func NewConsole(w io.Writer, getenv func(string) string) *Console {
	c := &Console{w: w}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		pipe := err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0
		c.live = pipe && getenv("BUILD_ID") != ""
		if term.IsTerminal(int(f.Fd())) {
			c.live = true
			width, height, _ := term.GetSize(int(f.Fd()))
			if width == taskTerminal && height == taskTerminal {
				return c
			}
			c.columns = func() int {
				width, _, _ := term.GetSize(int(f.Fd()))
				return width
			}
		}
	}
	return c
}

// Say prints a line.
func (c *Console) Say(format string, args ...any) {
	c.line("", "", fmt.Sprintf(format, args...))
}

// Warn prints a warning.
func (c *Console) Warn(format string, args ...any) {
	c.line("warning: ", yellow, fmt.Sprintf(format, args...))
}

// Caution warns of an error, with the advice it carries.
func (c *Console) Caution(err error) {
	c.Warn("%v", err)
	c.advise(err)
}

// Fail prints an error with the advice it carries; of a build that has failed,
// the end of its log, too.
func (c *Console) Fail(err error) {
	if many, ok := err.(mistakes); ok {
		for _, err := range many {
			c.Fail(err)
		}
		return
	}
	var build *nixstore.BuildError
	if errors.As(err, &build) {
		for _, f := range build.Failed {
			c.logOf(f)
		}
	}
	c.line("error: ", red, err.Error())
	c.advise(err)
	if build != nil {
		for _, f := range build.Failed {
			if len(f.LastLines) > 0 {
				c.line("hint: ", cyan, fmt.Sprintf("nix log %s shows all that it said, where it was built or, with build_logs, from the cache", f.Derivation))
			}
		}
	}
}

func (c *Console) advise(err error) {
	for _, advice := range hint.Of(err) {
		c.line("hint: ", cyan, advice)
	}
}

// logOf prints how the log of a failed build ended, all of it in the colour of an
// error.
func (c *Console) logOf(f nixstore.Failure) {
	if len(f.LastLines) == 0 {
		return
	}
	c.line("the log of "+f.Derivation.Name()+" ends:", red, "")
	for _, line := range f.LastLines {
		c.line("  "+printable(line), red, "")
	}
}

// Write passes on what another program says, as it comes.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, c.erase())
	if len(p) > 0 {
		c.mid = p[len(p)-1] != '\n'
	}
	return c.w.Write(p)
}

// overwrite replaces the line of progress; "" removes it.
func (c *Console) overwrite(text string) {
	if !c.live {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, c.erase()+c.startLine()+text)
	c.width = len(text)
}

// line prints a line, its label in colour. What a text quotes may come from
// anywhere, so it doesn't get to control a terminal.
func (c *Console) line(label, colour, text string) {
	text = printable(text)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live && label != "" {
		label = colour + label + plain
	}
	io.WriteString(c.w, c.erase()+c.startLine()+label+text+"\n")
}

// printable is a text without what controls a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// erase returns what removes the line of progress, if one stands there.
func (c *Console) erase() string {
	if c.width == 0 {
		return ""
	}
	blank := strings.Repeat(" ", c.width)
	c.width = 0
	return "\r" + blank + "\r"
}

// startLine returns what ends a line that another program left unfinished.
func (c *Console) startLine() string {
	if !c.mid {
		return ""
	}
	c.mid = false
	return "\n"
}

// The colours of labels, which Concourse renders as terminals do.
const (
	red    = "\x1b[1;31m"
	yellow = "\x1b[1;33m"
	cyan   = "\x1b[36m"
	plain  = "\x1b[0m"
)
