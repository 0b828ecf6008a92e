package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// Whoever types what the tutorial says sees what it says.
func TestTutorial(t *testing.T) {
	prepareMachine(t)
	page, err := os.ReadFile("docs/tutorial.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := parseTutorial(string(page))
	if len(commands) < 30 {
		t.Fatalf("found %d commands", len(commands))
	}
	shell := newShell(t, filepath.Join(nixtest.TempDir(t), "try"))
	for _, c := range commands {
		output, status := shell.run(t, c.text)
		if status != "0" {
			t.Fatalf("$ %s\nexit status %s:\n%s", c.text, status, output)
		}
		if mismatch := c.compare(output); mismatch != "" {
			t.Errorf("$ %s\n%s; it has printed\n%s", c.text, mismatch, output)
		}
	}
}

// A command is one that a page tells to type, and what it says that it prints.
type command struct {
	text  string
	wants []string // lines
}

// parseTutorial returns the commands of a page, from its blocks of console.
func parseTutorial(page string) (commands []command) {
	for _, block := range regexp.MustCompile("(?ms)^```console\n(.*?)^```$").FindAllStringSubmatch(page, -1) {
		for line := range strings.Lines(block[1]) {
			line = strings.TrimSuffix(line, "\n")
			if text, ok := strings.CutPrefix(line, "$ "); ok {
				commands = append(commands, command{text: text})
				continue
			}
			last := &commands[len(commands)-1]
			if text, ok := strings.CutPrefix(line, "> "); ok && len(last.wants) == 0 {
				last.text += "\n" + text
			} else {
				last.wants = append(last.wants, line)
			}
		}
	}
	return commands
}

// compare says what is wrong with the output, if anything. In what is wanted, …
// stands for anything, and on a line of its own for any lines. Of hashes, sizes and
// times it is enough that they are there.
func (c *command) compare(output string) string {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for _, line := range c.wants {
		if line == "…" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		line = regexp.QuoteMeta(loosely(line))
		pattern.WriteString(strings.ReplaceAll(line, "…", ".*") + `\n`)
	}
	pattern.WriteString(`\z`)
	if output != "" && !strings.HasSuffix(output, "\n") {
		output += "\n"
	}
	if regexp.MustCompile(pattern.String()).MatchString(loosely(output)) {
		return ""
	}
	return "the tutorial says that it prints\n" + strings.Join(c.wants, "\n")
}

// loosely leaves out of a text what is different each time, or on each machine.
func loosely(text string) string {
	for _, volatile := range []string{
		`\b[0-9a-df-np-sv-z]{32}\b`,         // hash of a store path
		`\b[0-9a-f]{12}(?:[0-9a-f]{28})?\b`, // commit
		`\b[0-9.]+ (?:[KMG]i)?B\b`,
		`\b\d{4}-\d\d-\d\dT[0-9:]+Z\b`,
	} {
		text = regexp.MustCompile(volatile).ReplaceAllString(text, "…")
	}
	return text
}

// A shell is the one of make try.
type shell struct {
	stdin  io.Writer
	stdout *bufio.Reader
}

func newShell(t *testing.T, dir string) *shell {
	t.Helper()
	cmd := exec.Command("ci/try", dir, "bash")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	return &shell{stdin, bufio.NewReader(stdout)}
}

// run types a command, and returns what it prints, and its exit status.
func (s *shell) run(t *testing.T, text string) (output, status string) {
	t.Helper()
	const end = "that was all: "
	fmt.Fprintf(s.stdin, "{ %s\n} 2>&1 </dev/null; echo \"%s$?\"\n", text, end)
	var b strings.Builder
	for {
		line, err := s.stdout.ReadString('\n')
		if before, after, ok := strings.Cut(line, end); ok {
			return b.String() + before, strings.TrimSpace(after)
		}
		b.WriteString(line)
		if err != nil {
			t.Fatalf("$ %s\nthe shell has ended: %v\n%s", text, err, &b)
		}
	}
}

// The demo goes to its end, which says what to do next.
func TestDemo(t *testing.T) {
	prepareMachine(t)
	cmd := exec.Command("ci/demo")
	cmd.Env = append(os.Environ(), "DEMO="+filepath.Join(nixtest.TempDir(t), "demo"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, next, _ := strings.Cut(string(out), "\nNext\n")
	if !strings.Contains(next, "make try") {
		t.Errorf("the demo ends otherwise:\n%s", out)
	}
}

// And what the comparison lets through, and what it doesn't.
func TestLoosely(t *testing.T) {
	const output = "sent 3 paths, 1.5 MiB (12 B compressed)\nfirst\nsecond\n/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nginx\n"
	for wants, fits := range map[string]bool{
		"sent 3 paths, 2.5 KiB (1.1 MiB compressed)\nfirst\nsecond\n/nix/store/2wjvp6jnyh9kw4c0p9y2v4d5vmh3w0cx-nginx": true,
		"sent 3 paths, …\n…\n/nix/store/…-nginx":                                                                       true,
		"…\nsecond\n…": true,
		"…":            true,
		"":             false,
		"sent 4 paths, 2.5 KiB (1.1 MiB compressed)\n…": false,
		"…\nsecond\nfirst\n…":                           false,
		"first\n…":                                      false,
		"…\nsecond":                                     false,
		"…\nsec\n…":                                     false,
	} {
		c := command{}
		if wants != "" {
			c.wants = strings.Split(wants, "\n")
		}
		if got := c.compare(output) == ""; got != fits {
			t.Errorf("%q fits: %v, want %v", wants, got, fits)
		}
	}
	commands := parseTutorial("```console\n$ cat <<END\n> text\n> END\ntext\n$ true\n```\n```sh\n$ false\n```\n")
	if fmt.Sprint(commands) != "[{cat <<END\ntext\nEND [text]} {true []}]" {
		t.Errorf("got %q", commands)
	}
}
