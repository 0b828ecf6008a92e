package nixcmd

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// An Installable is what Nix is to evaluate, in its own words: an attribute of
// a file or of a flake.
type Installable struct {
	File  string // of Nix, or the directory of a default.nix; or else
	Flake string // a reference to a flake, without a fragment; a directory by its absolute path
	Name  string // what people call that; by default, the same

	// The path of an attribute in what the file or the flake evaluates to, as
	// Nix writes it, with quotes where need be; empty for the whole.
	Attribute string

	Arguments           map[string]string // of the function in the file: texts (--argstr)
	ExpressionArguments map[string]string // and expressions (--arg)
	OverrideInputs      map[string]string // of the flake, by other flakes, which are written as Flake is
	Impure              bool              // the flake may look at the machine, as a file always may
	System              string            // to evaluate for; empty for this machine's
}

func (i Installable) String() string {
	if i.Attribute == "" {
		return i.name()
	}
	return i.Attribute + " of " + i.name()
}

func (i Installable) name() string { return cmp.Or(i.Name, i.Flake, i.File) }

// A Derivation is what an Installable evaluates to: one output of a recipe in
// the store.
type Derivation struct {
	Path    nix.StorePath // of the recipe: /nix/store/….drv
	Output  string        // of it, such as out
	OutPath nix.StorePath // of that output; zero if only building it tells, as for content-addressed ones
	Name    string
	System  string // that it is for: the hostPlatform's, or what it is built on where it doesn't say
}

//go:embed describe.nix
var describe string

// Evaluate evaluates an installable to the one derivation that it is. Its recipe
// is in the store then; nothing is built, but what evaluation itself asks for.
// What Nix says goes to the log as it comes.
//
// Lock files aren't written: a flake whose lock file would have to change is an
// error. Inputs are overridden only after that was found not to be so.
func (s *Store) Evaluate(ctx context.Context, i Installable) (Derivation, error) {
	d, err := s.describe(ctx, i)
	if err != nil {
		return Derivation{}, err
	}
	return d.derivation(i)
}

// Attributes lists the names of a set's attributes, sorted, and evaluates none of
// them.
func (s *Store) Attributes(ctx context.Context, i Installable) ([]string, error) {
	d, err := s.describe(ctx, i)
	if err == nil && d.Type != "set" {
		err = fmt.Errorf("%s is not a set, but a %s", i, d.Type)
	}
	return d.Attributes, err
}

// describe asks Nix what an installable is.
func (s *Store) describe(ctx context.Context, i Installable) (description, error) {
	s, untrust, err := s.trusting(i)
	if err != nil {
		return description{}, err
	}
	defer untrust()
	if i.Flake != "" {
		if err := s.checkLock(ctx, i); err != nil {
			return description{}, err
		}
	}
	args := []string{"--extra-experimental-features", "nix-command flakes",
		"eval", "--json", "--option", "eval-cache", "false", "--apply", "(" + describe + ") " + i.arguments()}
	for _, name := range slices.Sorted(maps.Keys(i.Arguments)) {
		args = append(args, "--argstr", name, i.Arguments[name])
	}
	for _, name := range slices.Sorted(maps.Keys(i.ExpressionArguments)) {
		args = append(args, "--arg", name, i.ExpressionArguments[name])
	}
	for _, name := range slices.Sorted(maps.Keys(i.OverrideInputs)) {
		args = append(args, "--override-input", name, i.OverrideInputs[name])
	}
	if i.System != "" {
		args = append(args, "--option", "system", i.System)
	}
	if i.Impure {
		args = append(args, "--impure")
	}
	if i.Flake != "" {
		lock := "--no-update-lock-file"
		if len(i.OverrideInputs) > 0 {
			lock = "--no-write-lock-file" // of what is overridden
		}
		args = append(args, lock, "--", i.Flake+"#"+fragment(i.Attribute))
	} else {
		args = append(args, "--file", i.File, "--", i.Attribute)
	}
	var stdout bytes.Buffer
	var said tail
	if err := s.runTo(ctx, i.purpose(), &stdout, io.MultiWriter(s.log, &said), "nix", args...); err != nil {
		if len(i.OverrideInputs) == 0 && lockChanges.MatchString(said.String()) {
			return description{}, unfitLock(i)
		}
		return description{}, evaluationError(i, said.String(), err)
	}
	var d description
	if err := json.Unmarshal(stdout.Bytes(), &d); err != nil {
		return description{}, fmt.Errorf("what nix eval printed: %w", err)
	}
	return d, nil
}

// purpose is what Nix is started for, to evaluate the installable.
func (i Installable) purpose() purpose {
	if i.Flake == "" || i.Impure {
		return toEvaluateFreely
	}
	return toEvaluate
}

// arguments writes the arguments as a set in Nix's language.
func (i Installable) arguments() string {
	var set strings.Builder
	for _, name := range slices.Sorted(maps.Keys(i.Arguments)) {
		fmt.Fprintf(&set, "%s = %s; ", quote(name), quote(i.Arguments[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(i.ExpressionArguments)) {
		fmt.Fprintf(&set, "%s = (%s\n); ", quote(name), i.ExpressionArguments[name])
	}
	return "{ " + set.String() + "}"
}

// quote writes a text as a string in Nix's language.
func quote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`).Replace(text) + `"`
}

// fragment writes an attribute's path as the fragment of a URL.
func fragment(attribute string) string {
	return strings.ReplaceAll(url.QueryEscape(attribute), "+", "%20")
}

// A description is what describe.nix says of a value.
type description struct {
	Type, Recipe, Path, Output, Name, System string
	Attributes                               []string
	Length                                   int
}

// derivation is the one that an installable is, by its description.
func (d description) derivation(i Installable) (Derivation, error) {
	switch {
	case d.Type == "derivation":
	case d.Type == "list":
		return Derivation{}, hint.With(fmt.Errorf("%s is a list of %d, where one derivation is wanted", i, d.Length),
			"name one derivation, and one output of it, by an attribute")
	case d.Type == "set" && len(d.Attributes) > 0:
		return Derivation{}, hint.With(fmt.Errorf("%s is not a derivation, but a set", i),
			"name an attribute in it: %s", hint.Few(d.Attributes))
	default:
		return Derivation{}, hint.With(fmt.Errorf("%s is not a derivation, but a %s", i, d.Type),
			"name an attribute that is one, such as config.system.build.toplevel")
	}
	path, err := nix.ParseStorePath(d.Recipe)
	if err != nil {
		return Derivation{}, fmt.Errorf("%s: its derivation: %w", i, err)
	}
	derivation := Derivation{Path: path, Output: d.Output, Name: d.Name, System: d.System}
	// What can't be known yet is a placeholder, which lies in no store.
	if strings.HasPrefix(d.Path, nix.StoreDir+"/") {
		if derivation.OutPath, err = nix.ParseStorePath(d.Path); err != nil {
			return Derivation{}, fmt.Errorf("%s: its output: %w", i, err)
		}
	}
	return derivation, nil
}

// ErrNoAttribute is wrapped by the error of evaluating an attribute that a flake
// hasn't got.
var ErrNoAttribute = errors.New("there is no such attribute")

// evaluationError says why an evaluation failed, by the last error that Nix has
// told of: what stands before it says how Nix came there.
func evaluationError(i Installable, said string, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("evaluating %s: %w", i, err)
	}
	message, advice := lastError(said)
	switch feature := disabledFeature.FindStringSubmatch(message); {
	case impureAdvice.MatchString(message):
		message, advice = impureAdvice.ReplaceAllString(message, ""), "a flake may look at the machine with impure: true"
	case feature != nil:
		message, advice = feature[1], "let nix_config say extra-experimental-features = "+feature[2]
	}
	if noAttribute.MatchString(message) {
		err = fmt.Errorf("%s can't be evaluated: %w", i, ErrNoAttribute)
		if advice != "" {
			err = hint.With(err, "%s", advice)
		}
		return err
	}
	if exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL { // which it isn't if it ended by itself
		return hint.With(fmt.Errorf("%s can't be evaluated (nix: %w)", i, err),
			"perhaps memory ran out: a system takes up to 2 GiB; of many hosts, evaluate fewer side by side (%s)", hint.Term("eval_workers"))
	}
	if message == "" {
		return fmt.Errorf("%s can't be evaluated (nix: %w)", i, err)
	}
	err = fmt.Errorf("%s can't be evaluated: %s", i, message)
	if advice != "" {
		err = hint.With(err, "%s", advice)
	}
	return err
}

// lastError finds the last error in what Nix has said: its message and, on one
// line with it, the place in the sources; and what Nix advises.
func lastError(said string) (message, advice string) {
	starts := errorStart.FindAllStringIndex(said, -1)
	if starts == nil {
		return "", ""
	}
	const longest = 12 // lines of a message, such as NixOS's of failed assertions
	var lines []string
	for line := range strings.Lines(said[starts[len(starts)-1][1]:]) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "(use '--show-trace'"):
		case strings.HasPrefix(line, "Did you mean "):
			advice = "d" + line[1:]
		case strings.HasPrefix(line, "at ") && strings.HasSuffix(line, ":"):
			return strings.TrimSpace(strings.Join(lines, "\n")) + " " + strings.TrimSuffix(line, ":"), advice
		case sourceLine.MatchString(line), len(lines) == longest:
			return strings.TrimSpace(strings.Join(lines, "\n")), advice
		case line != "" || len(lines) > 0:
			lines = append(lines, line)
		}
	}
	return strings.TrimSpace(strings.Join(lines, "\n")), advice
}

var (
	errorStart = regexp.MustCompile(`(?m)^\s*error:`)
	// What Nix advises in words of its own command line.
	impureAdvice    = regexp.MustCompile(` \(use '?--impure'? to override\)`)
	disabledFeature = regexp.MustCompile(`^(experimental Nix feature '([a-z-]+)' is disabled)`)
	// Nix names it, and all that it might have been short for.
	noAttribute = regexp.MustCompile(`^flake '[^']*' does not provide attribute `)
	sourceLine  = regexp.MustCompile(`^[0-9]*\|`)
)
