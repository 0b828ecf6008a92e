package resource

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A recipe says what Nix is to build: an attribute of a file in the inputs, or
// of a flake, which is a directory of the inputs or lies elsewhere.
type recipe struct {
	File      string
	Flake     flakeReference
	Attribute string // empty for the whole file, or the pointer's host of a flake

	Arguments, ExpressionArguments map[string]string // of the file's function
	OverrideInputs                 map[string]flakeReference
	Impure                         bool
	System                         string
	Build                          buildWhen
}

// buildWhen says when to build what was evaluated.
type buildWhen string

const (
	buildMissing buildWhen = "missing" // unless the cache has it, whole
	buildNever   buildWhen = "never"   // it must be there
	buildAlways  buildWhen = "always"  // also if it is there
)

// decodeRecipe takes what makes a recipe; the result is empty if nothing does.
func decodeRecipe(o *object) recipe {
	r := recipe{
		File:                parsed(o, "file", parseInput),
		Flake:               parsed(o, "flake", parseFlakeReference),
		Attribute:           parsed(o, "attribute", parseAttribute),
		Arguments:           textMap(o, "arguments"),
		ExpressionArguments: textMap(o, "expression_arguments"),
		Impure:              o.flag("impure", false),
		System:              parsed(o, "system", parseSystem),
		Build:               cmp.Or(parsed(o, "build", parseBuildWhen), buildMissing),
	}
	overrides := textMap(o, "override_inputs")
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		reference, err := parseFlakeReference(overrides[name])
		if err == nil && reference.host != "" {
			err = errors.New("an input is a whole flake: leave out what follows #")
		}
		if err != nil {
			o.failWith("override_inputs."+name, err)
		}
		if r.OverrideInputs == nil {
			r.OverrideInputs = map[string]flakeReference{}
		}
		r.OverrideInputs[name] = reference
	}
	if r.Flake.host != "" && r.Attribute != "" {
		o.failWith("attribute", hint.With(fmt.Errorf("#%s names an attribute already", r.Flake.host), "keep one of them"))
	}
	for _, only := range []struct{ key, with, why string }{
		{"arguments", "file", "only a file is a function of arguments: want file, too"},
		{"expression_arguments", "file", "only a file is a function of arguments: want file, too"},
		{"override_inputs", "flake", "inputs of which flake? want flake, too"},
		{"impure", "flake", "only a flake is evaluated purely: want flake, too"},
	} {
		if o.has(only.key) && !o.has(only.with) {
			o.failWith(only.key, errors.New(only.why))
		}
	}
	for _, key := range []string{"attribute", "system", "build"} {
		if o.has(key) && !o.has("file") && !o.has("flake") {
			o.fail(key, "of which expression? want file or flake, too")
		}
	}
	return r
}

// is says whether there is anything to build.
func (r *recipe) is() bool { return r.File != "" || r.Flake != flakeReference{} }

// checkout is what in the inputs the recipe comes from; "" if it lies elsewhere.
func (r *recipe) checkout() string { return cmp.Or(r.File, r.Flake.dir) }

// installable is the recipe in Nix's words, having looked that all that it
// needs is in the inputs. An attribute that isn't said is the host's.
func (r *recipe) installable(in *inputs, host pointer.Name) (nixstore.Installable, error) {
	i := nixstore.Installable{
		Attribute: r.Attribute, Impure: r.Impure, System: r.System,
		Arguments: r.Arguments, ExpressionArguments: r.ExpressionArguments,
	}
	var err error
	if in.dir != "/" { // where names are absolute but for the first letter
		i.Name = cmp.Or(r.File, r.Flake.url, r.Flake.dir)
	}
	if r.File != "" {
		if i.File, err = in.path(r.File); err != nil {
			return i, fmt.Errorf("params.file: %w", err)
		}
		return i, nil
	}
	if i.Flake, err = in.flake(r.Flake); err != nil {
		return i, fmt.Errorf("params.flake: %w", err)
	}
	if i.Attribute == "" {
		i.Attribute = toplevel(cmp.Or(r.Flake.host, string(host)))
	}
	for _, name := range slices.Sorted(maps.Keys(r.OverrideInputs)) {
		if i.OverrideInputs == nil {
			i.OverrideInputs = map[string]string{}
		}
		if i.OverrideInputs[name], err = in.source(r.OverrideInputs[name]); err != nil {
			return i, fmt.Errorf("params.override_inputs.%s: %w", name, err)
		}
	}
	return i, nil
}

// toplevel is the attribute of a flake that holds the system of a host, whose
// name is one component, whatever is in it.
func toplevel(host string) string {
	return "nixosConfigurations." + quoted(host) + ".config.system.build.toplevel"
}

// quoted writes a name as one component of an attribute's path.
func quoted(name string) string { return `"` + name + `"` }

// A flakeReference says where a flake is: in a directory of the inputs, or at a
// URL as Nix knows them.
type flakeReference struct {
	url   string
	dir   string // of the inputs, if there is no url
	query string // what follows the directory, such as dir=nixos
	host  string // what follows #, as in nixos-rebuild --flake config#web-1
}

func parseFlakeReference(s string) (flakeReference, error) {
	rest, host, _ := strings.Cut(s, "#")
	switch {
	case rest == "":
		return flakeReference{}, hint.With(errors.New("it names no flake"), "name a directory of the inputs, such as config, or a flake's URL, such as github:example/hosts")
	case strings.ContainsAny(host, `"^`) || strings.HasPrefix(host, "nixosConfigurations."):
		return flakeReference{}, hint.With(fmt.Errorf("what follows # is the name of a host, and %s is none", host),
			"name any other attribute by attribute: flake: %s, attribute: %s", rest, host)
	}
	if scheme := urlScheme.FindString(rest); scheme != "" {
		if localScheme.MatchString(scheme) {
			return flakeReference{}, outsideFlake(rest)
		}
		return flakeReference{url: rest, host: host}, nil
	}
	dir, query, _ := strings.Cut(rest, "?")
	params, err := url.ParseQuery(query)
	if err != nil {
		return flakeReference{}, fmt.Errorf("%s: %w", rest, err)
	}
	if !filepath.IsLocal(dir) || !filepath.IsLocal(filepath.Join(dir, params.Get("dir"))) {
		return flakeReference{}, outsideFlake(rest)
	}
	return flakeReference{dir: filepath.Clean(dir), query: query, host: host}, nil
}

var (
	urlScheme   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)
	localScheme = regexp.MustCompile(`^(path|file|[a-z]+\+file):$`)
)

func outsideFlake(name string) error {
	return hint.With(fmt.Errorf("the flake %s is not in the sources", name), "name it by its input and its path in there, such as config or config/nixos")
}

// flake returns where the flake is, as Nix wants to hear it, having looked that
// it is there.
func (in *inputs) flake(r flakeReference) (string, error) {
	source, err := in.source(r)
	if err != nil || r.url != "" {
		return source, err
	}
	params, _ := url.ParseQuery(r.query) // it was parsed before
	dir := filepath.Join(r.dir, params.Get("dir"))
	if _, err := in.path(filepath.Join(dir, "flake.nix")); err != nil {
		if elsewhere, _ := fs.Glob(in.root.FS(), filepath.ToSlash(filepath.Join(dir, "*", "flake.nix"))); len(elsewhere) > 0 {
			err = hint.With(err, "there is one in %s", filepath.Dir(elsewhere[0]))
		}
		return "", err
	}
	return source, nil
}

// source is flake for what needn't be one: an input may be any directory.
func (in *inputs) source(r flakeReference) (string, error) {
	if r.url != "" {
		return r.url, nil
	}
	dir, err := in.path(r.dir)
	if input, _, _ := strings.Cut(r.dir, "/"); err != nil && r.host != "" && !slices.Contains(in.names("."), input) {
		return "", hint.With(fmt.Errorf("this put has no input %s", input),
			"Concourse looks for the input %s#%s, and there is none: give the put inputs: [%s]", r.dir, r.host, input)
	}
	if err != nil {
		return "", err
	}
	// Git and Nix want it without symlinks; none leads out of the sources.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	if r.query != "" {
		dir += "?" + r.query
	}
	return dir, nil
}

func parseAttribute(s string) (string, error) {
	if strings.Contains(s, "^") {
		return "", hint.With(errors.New("it has a ^"), "name an output of a derivation as an attribute of it: web-1.dev")
	}
	return parseInput(s)
}

func parseSystem(s string) (string, error) {
	if !systemName.MatchString(s) {
		return "", fmt.Errorf("want a system such as aarch64-linux, got %q", s)
	}
	return s, nil
}

func parseBuildWhen(s string) (buildWhen, error) {
	if when := buildWhen(s); when == buildMissing || when == buildNever || when == buildAlways {
		return when, nil
	}
	return "", fmt.Errorf("want %s, %s or %s, got %q", buildMissing, buildNever, buildAlways, s)
}

// textMap takes an object of texts; a number or a boolean counts as it is written.
func textMap(o *object, key string) map[string]string {
	raw, ok := o.raw(key)
	if !ok {
		return nil
	}
	var values map[string]json.RawMessage
	if json.Unmarshal(raw, &values) != nil {
		o.fail(key, "want an object of names and values, got %s", kindOf(raw))
		return nil
	}
	texts := make(map[string]string, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch kind := kindOf(values[name]); kind {
		case "a string":
			var text string
			json.Unmarshal(values[name], &text)
			texts[name] = text
		case "a number", "a boolean":
			texts[name] = string(values[name])
		default:
			o.fail(key+"."+name, "want a string, got %s", kind)
		}
	}
	return texts
}
