// Package console is where people read what this project does while it runs: a
// build's log in Concourse, a terminal, or a file.
//
// Everything that is said to people goes through a [Console], by these rules:
// what went wrong after "error:", what seems wrong after "warning:", what to do
// about it on a line of its own after "hint:"; lower case, no full stop, no
// secret. An unhelpful error is a bug. Text from outside can't control a
// terminal.
//
// The package also words what several rooms say alike: amounts, sizes, times and
// the rows about a generation. It doesn't know what runs.
package console

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// A Console is where people read. Where a person is watching there is colour,
// and one line of progress, which stays the last line and is overwritten in
// place. A plain file gets neither, nor does a terminal that TERM calls dumb;
// NO_COLOR takes the colour away (https://no-color.org). Its methods may be
// called from several goroutines.
type Console struct {
	words   hint.Words // of the front that it belongs to
	live    bool       // a person is watching, where a line can be overwritten
	colour  bool       // and colour is wanted
	columns func() int // how wide their terminal is; nil if it isn't one

	mu    sync.Mutex
	w     io.Writer
	width int  // of the line of progress that stands there now, in bytes, all of them ASCII
	mid   bool // what was passed through ended in the middle of a line

	retried time.Time // when Retrying last told
}

// taskTerminal is how wide and how high Concourse says that the terminal of each
// task is, which is no terminal but the log of a build (concourse/concourse,
// atc/exec/task_step.go).
const taskTerminal = 500

// New returns the console on w, which gives advice in the given words; nil are
// those of a pipeline. A person is watching if w is a terminal, or a pipe in a
// step of Concourse, which sets BUILD_ID.
func New(w io.Writer, getenv func(string) string, words hint.Words) *Console {
	c := &Console{w: w, words: words}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		pipe := err == nil && info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) != 0
		c.live = pipe && getenv("BUILD_ID") != ""
		if term.IsTerminal(int(f.Fd())) && getenv("TERM") != "dumb" {
			c.live = true
			width, height, _ := term.GetSize(int(f.Fd()))
			if width != taskTerminal || height != taskTerminal {
				c.columns = func() int {
					width, _, _ := term.GetSize(int(f.Fd()))
					return width
				}
			}
		}
	}
	c.colour = c.live && getenv("NO_COLOR") == ""
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

// Retrying tells that something is tried again, and why; not more often than a
// person wants to hear it.
func (c *Console) Retrying(err error) {
	const often = 15 * time.Second
	c.mu.Lock()
	now := time.Now()
	tell := now.Sub(c.retried) > often
	if tell {
		c.retried = now
	}
	c.mu.Unlock()
	if tell {
		c.Say("trying again: %v", err)
	}
}

// Caution warns of an error, with the advice it carries.
func (c *Console) Caution(err error) {
	c.Warn("%v", err)
	c.advise(err)
}

// Fail prints an error with the advice it carries. If it is several joined ones,
// each is printed by itself. Where the error has something to quote, such as the
// end of a build's log, that comes first.
func (c *Console) Fail(err error) {
	if each := joined(err); each != nil {
		for _, err := range each {
			c.Fail(err)
		}
		return
	}
	var quoting Quoting
	if errors.As(err, &quoting) {
		for title, lines := range quoting.Quotes() {
			c.line(title, red, "")
			for _, line := range lines {
				c.line("  "+printable(line), red, "")
			}
		}
	}
	c.line("error: ", red, err.Error())
	c.advise(err)
}

// A Quoting error has lines of others to show before it, such as the end of the
// log of a build that has failed, each time with a title.
type Quoting interface {
	error
	Quotes() iter.Seq2[string, []string]
}

// joined returns the errors that err joins, nil if it has a text of its own.
func joined(err error) []error {
	for err != nil {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			each := many.Unwrap()
			if errors.Join(each...).Error() != err.Error() {
				return nil
			}
			return each
		}
		inner := errors.Unwrap(err)
		if inner == nil || inner.Error() != err.Error() || len(hint.Of(err)) != len(hint.Of(inner)) {
			return nil
		}
		err = inner
	}
	return nil
}

func (c *Console) advise(err error) {
	for _, advice := range hint.Worded(err, c.words) {
		c.line("hint: ", cyan, advice)
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

// Overwrite replaces the line of progress; "" removes it.
func (c *Console) Overwrite(text string) {
	if !c.live {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, c.erase()+c.startLine()+text)
	c.width = len(text)
}

// Text prints a text of several lines as it is; plain or in colour is for the
// caller to choose by [Console.Colour].
func (c *Console) Text(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	io.WriteString(c.w, c.erase()+c.startLine()+text)
}

// Colour says whether a person is watching who wants colour.
func (c *Console) Colour() bool { return c.colour }

// line prints a line, its label in colour. What a text quotes may come from
// anywhere, so it doesn't get to control a terminal.
func (c *Console) line(label, colour, text string) {
	text = printable(text)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.colour && label != "" {
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
