package resource

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/fields"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
)

// putParams are the params of a put. Names of files are as the pipeline has them:
// relative to the sources, by an input. Exactly one of File, Flake, Closure,
// Promote, and Path or PathFrom is set; but a Closure may have its root named by
// the latter.
type putParams struct {
	File      string
	Flake     build.FlakeRef
	Attribute string // empty for the whole file, or the pointer's host of a flake

	Arguments, ExpressionArguments map[string]string // of the file's function
	OverrideInputs                 map[string]build.FlakeRef
	Impure                         bool
	System                         string
	Build                          build.When

	All     bool         // hosts of the flake
	Hosts   []build.Host // besides the source's own; nil if there are none
	Workers int

	Closure  string        // what an earlier step has left
	Path     nix.StorePath // in the local store, the cache or the Closure
	PathFrom string        // what in the inputs leads to a store path

	Promote    string         // the directory of a get of another pointer
	To         []pointer.Name // further pointers to promote to
	AllowOlder bool

	Message      string
	IfGeneration string // a number, or the directory of a get; empty: whatever is the newest
}

// builds says whether there is something to evaluate.
func (p *putParams) builds() bool { return p.File != "" || !p.Flake.IsZero() }

// manyHosts says whether there are several hosts.
func (p *putParams) manyHosts() bool { return p.All || p.Hosts != nil }

// ofSource tells those who look for keys of the source among the params.
var ofSource = map[string]string{
	"cache":               "cache belongs into source; a put to another cache is one of another resource",
	"pointer":             "pointer belongs into source; to move several, see pointers, all and to",
	"signing_key":         "signing_key belongs into source",
	"trusted_public_keys": "trusted_public_keys belongs into source",
}

// decodePut takes the params of a put.
func decodePut(r *request) putParams {
	o := r.object("params")
	o.Moved = ofSource
	defer o.Finish()
	p := putParams{
		File:                fields.Parsed(o, "file", parseInput),
		Flake:               fields.Parsed(o, "flake", parseFlake),
		Attribute:           fields.Parsed(o, "attribute", build.ParseAttribute),
		Arguments:           o.TextMap("arguments"),
		ExpressionArguments: o.TextMap("expression_arguments"),
		OverrideInputs:      decodeOverrides(o),
		Impure:              o.Flag("impure", false),
		System:              fields.Parsed(o, "system", parseSystem),
		Build:               cmp.Or(fields.Parsed(o, "build", build.ParseWhen), build.Missing),
		All:                 o.Flag("all", false),
		Hosts:               decodePointers(o),
		Workers:             decodeWorkers(o),
		Closure:             fields.Parsed(o, "closure", parseInput),
		Promote:             fields.Parsed(o, "promote", parseInput),
		To:                  decodeTo(o),
		AllowOlder:          o.Flag("allow_older", false),
		Message:             fields.Parsed(o, "message", parseMessage),
		IfGeneration:        o.TextOrNumber("if_generation"),
	}
	if path := fields.Parsed(o, "store_path", parseInput); strings.HasPrefix(path, "/") {
		p.Path = fields.Parsed(o, "store_path", nix.ParseStorePath)
	} else {
		p.PathFrom = path
	}
	if p.Flake.Host != "" && p.Attribute != "" {
		o.FailWith("attribute", hint.With(fmt.Errorf("#%s names an attribute already", p.Flake.Host), "keep one of them"))
	}
	checkCompany(o)
	checkHosts(o, &p)
	checkWhat(o)
	return p
}

// checkCompany refuses params that say nothing without others.
func checkCompany(o *fields.Object) {
	for _, only := range []struct{ key, with, why string }{
		{"arguments", "file", "only a file is a function of arguments: want file, too"},
		{"expression_arguments", "file", "only a file is a function of arguments: want file, too"},
		{"override_inputs", "flake", "inputs of which flake? want flake, too"},
		{"impure", "flake", "only a flake is evaluated purely: want flake, too"},
		{"to", "promote", "only what is promoted goes to further pointers: want promote, too"},
		{"allow_older", "promote", "older than what? want promote, too"},
	} {
		if o.Has(only.key) && !o.Has(only.with) {
			o.FailWith(only.key, errors.New(only.why))
		}
	}
	for _, key := range []string{"attribute", "system", "build"} {
		if o.Has(key) && !o.Has("file") && !o.Has("flake") {
			o.Fail(key, "of which expression? want file or flake, too")
		}
	}
}

// checkHosts refuses what doesn't say clearly which hosts are meant.
func checkHosts(o *fields.Object, p *putParams) {
	switch {
	case p.All && o.Has("pointers"):
		o.Fail("pointers", "all hosts have their pointers already: keep all, or pointers")
	case p.All && !o.Has("flake"):
		o.Fail("all", "all hosts of which flake? want flake, too")
	case p.All && (o.Has("attribute") || p.Flake.Host != ""):
		o.Fail("all", "one host is named, too: keep all, or that one")
	case o.Has("pointers") && !o.Has("flake") && !o.Has("file"):
		o.Fail("pointers", "attributes of which expression? want flake or file, too")
	case o.Has("eval_workers") && !p.manyHosts():
		o.Fail("eval_workers", "there is one host to evaluate: want all or pointers, too")
	}
}

// checkWhat refuses params that name no closure, or several.
func checkWhat(o *fields.Object) {
	var given []string
	for _, key := range []string{"file", "flake", "closure", "promote", "store_path"} {
		if o.Has(key) && !(key == "store_path" && o.Has("closure")) {
			given = append(given, key)
		}
	}
	switch {
	case len(given) > 1:
		number := []string{"two", "three", "four", "five"}[len(given)-2]
		o.FailWith("", hint.With(fmt.Errorf("%s are %s closures, and a put publishes one", strings.Join(given, " and "), number), "keep one of them"))
	case len(given) == 0:
		o.FailWith("", hint.With(errors.New("they don't say what to publish"),
			"name a flake (flake: config), a Nix expression in an input (file: config/default.nix, attribute: web-1), a path (store_path: built/result), a closure from an earlier step (closure: built/cache) or a get of another pointer (promote: web-1-candidate)"))
	}
}

// installable is what the params say that Nix is to evaluate, having looked that
// all that it needs is in the inputs; and the host whose system that is, if no
// attribute was named.
func (p *putParams) installable(in *inputs, name pointer.Name) (i nixcmd.Installable, host string, err error) {
	i = nixcmd.Installable{
		Name: cmp.Or(p.File, p.Flake.URL, p.Flake.Dir), Attribute: p.Attribute, Impure: p.Impure, System: p.System,
		Arguments: p.Arguments, ExpressionArguments: p.ExpressionArguments,
	}
	if p.File != "" {
		i.File, err = in.path(p.File)
		return i, "", prefixed("params.file", err)
	}
	if i.Flake, err = in.flake(p.Flake); err != nil {
		return i, "", prefixed("params.flake", err)
	}
	host = p.Flake.SetHost(&i, name)
	for _, input := range slices.Sorted(maps.Keys(p.OverrideInputs)) {
		if i.OverrideInputs == nil {
			i.OverrideInputs = map[string]string{}
		}
		if i.OverrideInputs[input], err = in.source(p.OverrideInputs[input]); err != nil {
			return i, "", prefixed("params.override_inputs."+input, err)
		}
	}
	return i, host, nil
}

// decodeOverrides takes the flakes that stand in for inputs.
func decodeOverrides(o *fields.Object) map[string]build.FlakeRef {
	texts := o.TextMap("override_inputs")
	if texts == nil {
		return nil
	}
	overrides := map[string]build.FlakeRef{}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		reference, err := parseFlake(texts[name])
		if err == nil && reference.Host != "" {
			err = errors.New("an input is a whole flake: leave out what follows #")
		}
		if err != nil {
			o.FailWith("override_inputs."+name, err)
		}
		overrides[name] = reference
	}
	return overrides
}

// decodePointers takes further pointers with the attributes that they are to lead
// to, sorted by their names.
func decodePointers(o *fields.Object) []build.Host {
	attributes := o.TextMap("pointers")
	if attributes == nil {
		return nil
	}
	hosts := []build.Host{}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		_, err := pointer.ParseName(name)
		if err == nil {
			_, err = build.ParseAttribute(attributes[name])
		}
		if err != nil {
			o.FailWith("pointers."+name, err)
			continue
		}
		hosts = append(hosts, build.Host{Name: name, Attribute: attributes[name]})
	}
	return hosts
}

// decodeTo takes the further pointers of a promotion.
func decodeTo(o *fields.Object) []pointer.Name {
	var names []pointer.Name
	for _, text := range o.Texts("to") {
		name, err := pointer.ParseName(text)
		if err != nil {
			o.FailWith("to", err)
		} else if slices.Contains(names, name) {
			o.Fail("to", "%s stands there twice", name)
		}
		names = append(names, name)
	}
	return names
}

// decodeWorkers takes how many hosts are evaluated side by side.
func decodeWorkers(o *fields.Object) int {
	text := o.TextOrNumber("eval_workers")
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		o.Fail("eval_workers", "want a number of evaluations side by side, got %q", text)
	}
	return n
}

// parseFlake parses a reference to a flake, which is in the sources or at a URL
// that leads to elsewhere than this machine.
func parseFlake(s string) (build.FlakeRef, error) {
	r, err := build.ParseFlakeRef(s)
	if err == nil && (r.IsLocalURL() || r.URL == "" && (!filepath.IsLocal(r.Dir) || !filepath.IsLocal(r.FlakeDir()))) {
		name, _, _ := strings.Cut(s, "#")
		return r, hint.With(fmt.Errorf("the flake %s is not in the sources", name), "name it by its input and its path in there, such as config or config/nixos")
	}
	return r, err
}

func parseInput(s string) (string, error) {
	if s == "" {
		return "", errors.New("it is empty")
	}
	return s, nil
}

func parseMessage(s string) (string, error) {
	if len(s) > pointer.MaxMessage {
		return "", fmt.Errorf("it has %d bytes, and may have %d", len(s), pointer.MaxMessage)
	}
	return s, nil
}

func parseSystem(s string) (string, error) {
	if !publish.IsSystem(s) {
		return "", fmt.Errorf("want a system such as aarch64-linux, got %q", s)
	}
	return s, nil
}
