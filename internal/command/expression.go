package command

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
)

// An expression is what to evaluate and build, as flags say it.
type expression struct {
	file, flake, attribute, system, when string
	overrides, arguments, expressions    []string // name=value, each
	impure                               bool
}

func (e *expression) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&e.flake, "flake", "", "a `flake` to build: a directory, or any reference to one; with #web-1, that host of it")
	flags.StringVarP(&e.file, "file", "f", "", "a Nix expression `file` to build")
	flags.StringVarP(&e.attribute, "attribute", "A", "", "the `attribute` of it")
	flags.StringArrayVar(&e.arguments, "argstr", nil, "`name=text`: call the file with this argument")
	flags.StringArrayVar(&e.expressions, "arg", nil, "`name=expression`: call the file with this argument")
	e.addFlakeFlags(flags)
}

// addFlakeFlags are those of a command that has its own words for which hosts.
func (e *expression) addFlakeFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&e.overrides, "override-input", nil, "`input=flake`: take an input of the flake from elsewhere")
	flags.BoolVar(&e.impure, "impure", false, "let the flake look at this machine")
	flags.StringVar(&e.system, "system", "", "the `system` to evaluate for")
	flags.StringVar(&e.when, "build", "missing", "`when` to build: missing (unless the cache has it), never, or always")
}

// isSet says whether there is something to evaluate.
func (e *expression) isSet() bool { return e.file != "" || e.flake != "" }

// An evaluation is an expression in the words of package build.
type evaluation struct {
	nixcmd.Installable
	flake       build.FlakeRef
	when        build.When
	revision    string
	askRevision bool
}

// parse checks the flags against each other and looks for the files that they name.
func (e *expression) parse() (v evaluation, err error) {
	defer func() { err = hint.Usage(err) }()
	if e.file != "" && e.flake != "" {
		return v, hint.With(fmt.Errorf("--file and --flake are two closures, and one is published"), "keep one of them")
	}
	for _, only := range []struct {
		flag  string
		isSet bool
		with  string
		has   bool
	}{
		{"--argstr", len(e.arguments) > 0, "--file", e.file != ""},
		{"--arg", len(e.expressions) > 0, "--file", e.file != ""},
		{"--override-input", len(e.overrides) > 0, "--flake", e.flake != ""},
		{"--impure", e.impure, "--flake", e.flake != ""},
		{"--attribute", e.attribute != "", "--file or --flake", e.isSet()},
		{"--system", e.system != "", "--file or --flake", e.isSet()},
	} {
		if only.isSet && !only.has {
			return v, fmt.Errorf("%s says nothing without %s", only.flag, only.with)
		}
	}
	if v.when, err = build.ParseWhen(cmp.Or(e.when, string(build.Missing))); err != nil {
		return v, fmt.Errorf("--build: %w", err)
	}
	if e.attribute != "" {
		if v.Attribute, err = build.ParseAttribute(e.attribute); err != nil {
			return v, fmt.Errorf("--attribute: %w", err)
		}
	}
	if e.system != "" && !publish.IsSystem(e.system) {
		return v, fmt.Errorf("--system: want a system such as aarch64-linux, got %q", e.system)
	}
	v.Impure, v.System = e.impure, e.system
	if v.Arguments, err = pairs("--argstr", e.arguments); err != nil {
		return v, err
	}
	if v.ExpressionArguments, err = pairs("--arg", e.expressions); err != nil {
		return v, err
	}
	if e.file != "" {
		v.Name = e.file
		if v.File, err = existing(e.file); err != nil {
			return v, err
		}
		v.revision = revisionOf(v.File)
		return v, nil
	}
	if e.flake == "" {
		return v, nil
	}
	if v.flake, err = build.ParseFlakeRef(e.flake); err != nil {
		return v, fmt.Errorf("--flake: %w", err)
	}
	if v.flake.Host != "" && e.attribute != "" {
		return v, hint.With(fmt.Errorf("--flake: #%s names an attribute already, and --attribute another", v.flake.Host), "keep one of them")
	}
	v.Name = cmp.Or(v.flake.URL, v.flake.Dir)
	if v.Flake, err = resolve(v.flake); err != nil {
		return v, err
	}
	v.askRevision = v.flake.URL != ""
	if !v.askRevision {
		v.revision = revisionOf(v.Flake)
	}
	overrides, err := pairs("--override-input", e.overrides)
	for name, value := range overrides {
		ref, refErr := build.ParseFlakeRef(value)
		if refErr == nil {
			overrides[name], refErr = resolve(ref)
		}
		if refErr != nil {
			return v, fmt.Errorf("--override-input %s: %w", name, refErr)
		}
	}
	v.OverrideInputs = overrides
	return v, err
}

// resolve returns a reference as Nix wants it, having looked that a directory is
// there. A symlink to a flake is one.
func resolve(r build.FlakeRef) (string, error) {
	if r.URL != "" {
		return r.URL, nil
	}
	dir, err := existing(r.Dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	return r.Resolved(dir), err
}

// existing returns the absolute name of a file that is there.
func existing(name string) (string, error) {
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return filepath.Abs(name)
}

// revisionOf is the git commit of the checkout that holds a file or directory.
func revisionOf(name string) string {
	name, _, _ = strings.Cut(name, "?")
	return build.RevisionAbove(name)
}

// pairs takes apart what was said by a flag as name=value.
func pairs(flag string, said []string) (map[string]string, error) {
	if len(said) == 0 {
		return nil, nil
	}
	values := map[string]string{}
	for _, pair := range said {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("%s: want a name, = and a value, got %q", flag, pair)
		}
		values[name] = value
	}
	return values, nil
}
