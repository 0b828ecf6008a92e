package command

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/pflag"
)

// A recipe is what a put is to build, as flags say it.
type recipe struct {
	file, flake, attribute, system, when string
	overrides, arguments, expressions    []string // name=value, each
	impure                               bool
}

func (r *recipe) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&r.flake, "flake", "", "a `flake` to build: a directory, or any reference to one; with #web-1, that host of it")
	flags.StringVarP(&r.file, "file", "f", "", "a Nix expression `file` to build")
	flags.StringVarP(&r.attribute, "attribute", "A", "", "the `attribute` of it")
	flags.StringArrayVar(&r.arguments, "argstr", nil, "`name=text`: call the file with this argument")
	flags.StringArrayVar(&r.expressions, "arg", nil, "`name=expression`: call the file with this argument")
	r.addFlakeFlags(flags)
}

// addFlakeFlags are those of a command that has its own words for which hosts.
func (r *recipe) addFlakeFlags(flags *pflag.FlagSet) {
	flags.StringArrayVar(&r.overrides, "override-input", nil, "`input=flake`: take an input of the flake from elsewhere")
	flags.BoolVar(&r.impure, "impure", false, "let the flake look at this machine")
	flags.StringVar(&r.system, "system", "", "the `system` to evaluate for")
	flags.StringVar(&r.when, "build", "", "`when` to build: missing (unless the cache has it), never, or always")
}

// addTo adds what was said to the params of a put.
func (r *recipe) addTo(params map[string]any) (err error) {
	if r.flake != "" {
		if params["flake"], err = flakeInRoot(r.flake); err != nil {
			return err
		}
	}
	if r.file != "" {
		if params["file"], err = inRoot(r.file); err != nil {
			return err
		}
	}
	for key, value := range map[string]string{"attribute": r.attribute, "system": r.system, "build": r.when} {
		if value != "" {
			params[key] = value
		}
	}
	for _, pairs := range []struct {
		key, flag string
		said      []string
		parse     func(string) (string, error)
	}{
		{"arguments", "argstr", r.arguments, asIs},
		{"expression_arguments", "arg", r.expressions, asIs},
		{"override_inputs", "override-input", r.overrides, flakeInRoot},
	} {
		values := map[string]string{}
		for _, pair := range pairs.said {
			name, value, ok := strings.Cut(pair, "=")
			if !ok {
				return misuse{fmt.Errorf("--%s: want a name, = and a value, got %q", pairs.flag, pair)}
			}
			if values[name], err = pairs.parse(value); err != nil {
				return err
			}
		}
		if len(values) > 0 {
			params[pairs.key] = values
		}
	}
	if r.impure {
		params["impure"] = true
	}
	return nil
}

func asIs(value string) (string, error) { return value, nil }

// flakeInRoot is inRoot for a reference to a flake, of which a directory is only
// the beginning, if it is in one.
func flakeInRoot(reference string) (string, error) {
	if flakeURL.MatchString(reference) {
		return reference, nil
	}
	end := strings.IndexAny(reference+"#", "?#")
	dir, err := filepath.EvalSymlinks(reference[:end]) // a symlink to a flake is one
	if err != nil {
		return "", misuse{err}
	}
	name, err := inRoot(dir)
	return name + reference[end:], err
}

var flakeURL = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)
