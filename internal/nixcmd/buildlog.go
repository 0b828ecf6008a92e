package nixcmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A buildLog reads what Nix says in its internal JSON format while it builds. It
// passes on what people want to read, each line of a builder after the name of
// what it builds, and keeps what explains a failure. (The format: Nix,
// src/libutil/logging.cc; it is the same from 2.4 on.)
type buildLog struct {
	w          io.Writer
	unfinished []byte // line
	endless    bool   // it was too long, and what comes before its end is dropped
	running    map[uint64]*build
	begun      []nix.StorePath
	ended      []*build // the last ones
	errors     []string // but for those that others led to
	diskFull   bool     // or so somebody has said
	unreached  []string // what ssh has said of builders
}

// A build is that of one derivation.
type build struct {
	derivation nix.StorePath
	lastLines  []string
}

const (
	keptLines  = 20  // of each build
	keptBytes  = 500 // of each of these
	keptBuilds = 200 // that have ended: whether they failed is told in the end

	longestLine = 1 << 20 // bytes; of a longer one, the rest is dropped
)

func newBuildLog(w io.Writer) *buildLog {
	return &buildLog{w: w, running: map[uint64]*build{}}
}

func (l *buildLog) Write(p []byte) (int, error) {
	l.unfinished = append(l.unfinished, p...)
	for {
		line, rest, ended := bytes.Cut(l.unfinished, []byte("\n"))
		tooLong := len(line) > longestLine
		switch {
		case !ended && !tooLong:
			return len(p), nil
		case tooLong && !l.endless:
			fmt.Fprintf(l.w, "(a line of more than %d bytes is left out)\n", longestLine)
		case !tooLong && !l.endless:
			l.line(string(line))
		}
		l.endless = !ended
		l.unfinished = rest
	}
}

func (l *buildLog) line(line string) {
	if diskFull.MatchString(line) {
		l.diskFull = true
	}
	text, ok := strings.CutPrefix(line, "@nix ")
	var e event
	if !ok || json.Unmarshal([]byte(text), &e) != nil {
		if unreached.MatchString(line) && len(l.unreached) < keptLines && !slices.Contains(l.unreached, line) {
			l.unreached = append(l.unreached, line)
		}
		fmt.Fprintln(l.w, line)
		return
	}
	switch {
	case e.Action == "msg" && e.Level == levelError:
		if text := colours.ReplaceAllString(e.Message, ""); !consequence.MatchString(text) {
			l.errors = append(l.errors, text)
		}
	case e.Action == "msg" && e.Level <= levelInfo && !strings.Contains(e.Message, "--add-root"):
		fmt.Fprintln(l.w, colours.ReplaceAllString(e.Message, ""))
	case e.Action == "start":
		if e.Type == activityBuild {
			path, err := nix.ParseStorePath(e.field(0))
			if err == nil {
				l.running[e.ID] = &build{derivation: path}
				l.begun = append(l.begun, path)
			}
		}
		if e.Level <= levelInfo && e.Text != "" {
			fmt.Fprintln(l.w, e.Text+"...")
		}
	case e.Action == "stop" && l.running[e.ID] != nil:
		l.ended = append(l.ended, l.running[e.ID])
		l.ended = l.ended[max(0, len(l.ended)-keptBuilds):]
		delete(l.running, e.ID)
	case e.Action == "result" && e.Type == resultLogLine:
		l.say(l.running[e.ID], binary.ReplaceAllString(e.field(0), " "))
	}
}

// say passes on a line that a build has said.
func (l *buildLog) say(b *build, line string) {
	if b == nil {
		fmt.Fprintln(l.w, line)
		return
	}
	fmt.Fprintf(l.w, "%s> %s\n", strings.TrimSuffix(b.derivation.Name(), ".drv"), line)
	if line = strings.TrimRight(colours.ReplaceAllString(line, ""), " "); line != "" {
		b.lastLines = append(b.lastLines, line[:min(len(line), keptBytes)])
		b.lastLines = b.lastLines[max(0, len(b.lastLines)-keptLines):]
	}
}

// An event is one line of the format.
type event struct {
	Action  string
	ID      uint64
	Level   int
	Type    int
	Text    string            // of a start
	Message string            `json:"msg"`
	Fields  []json.RawMessage // texts and numbers
}

// field returns the nth field, if it is a text.
func (e *event) field(n int) (text string) {
	if n < len(e.Fields) {
		json.Unmarshal(e.Fields[n], &text)
	}
	return text
}

const (
	levelError    = 0
	levelInfo     = 3
	activityBuild = 105
	resultLogLine = 101
)

// diskFull matches the words of the C library, and of SQLite.
var diskFull = regexp.MustCompile("No space left on device|database or disk is full")

// unreached matches what ssh says when it doesn't get to where it is to.
var unreached = regexp.MustCompile(`^ssh: |^Host key verification failed|: Permission denied \(`)

// binary matches what Nix's own builder says to programs: records, in 2.8, whose
// fields end in zeros.
var binary = regexp.MustCompile("[\x00-\x08]+")

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// failed are the derivations that errors name.
func (l *buildLog) failed() []Failure {
	var failures []Failure
	seen := map[nix.StorePath]bool{}
	for _, text := range l.errors {
		path, err := nix.ParseStorePath(derivationName.FindString(text))
		if err != nil || seen[path] {
			continue
		}
		seen[path] = true
		failures = append(failures, Failure{path, reason(text), l.lastLines(path)})
	}
	return failures
}

// message is the last error.
func (l *buildLog) message() string {
	if len(l.errors) == 0 {
		return "Nix didn't say why"
	}
	return reason(l.errors[len(l.errors)-1])
}

var (
	consequence    = regexp.MustCompile(`[0-9]+ dependenc(y|ies)\b.* failed|^error: build of '[^ ]*'(, '[^ ]*')* failed$`)
	derivationName = regexp.MustCompile(`/nix/store/[a-z0-9]{32}-[^' !]*\.drv`)
	ofDerivation   = regexp.MustCompile(` (for|in fixed-output derivation) '[^ ]*\.drv'`)
	reasonText     = regexp.MustCompile(`(?s)\n\s*Reason: (.*?)\.?(\n\s*Output paths:.*)?$`)
)

// reason says an error about a derivation without naming it. Nix 2.34 writes
// "Cannot build '….drv'.\nReason: builder failed with exit code 1.\nOutput
// paths: …", older ones "builder for '….drv' failed with exit code 1;\nlast …".
func reason(text string) string {
	text = strings.TrimPrefix(text, "error: ")
	if found := reasonText.FindStringSubmatch(text); found != nil {
		text = found[1]
	}
	text, _, _ = strings.Cut(text, ";\n")
	text = ofDerivation.ReplaceAllString(text, "")
	return strings.Join(strings.Fields(strings.NewReplacer(":\n", ": ", "\n", ", ").Replace(text)), " ")
}

func (l *buildLog) lastLines(derivation nix.StorePath) []string {
	for _, b := range l.running {
		if b.derivation == derivation {
			return b.lastLines
		}
	}
	for _, b := range l.ended {
		if b.derivation == derivation {
			return b.lastLines
		}
	}
	return nil
}
