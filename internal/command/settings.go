package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/fields"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// settings are where it is said which cache, whose keys and which pointers are
// meant: in a file, in the environment, by flags.
type settings struct {
	file  string
	flags *pflag.FlagSet
}

const (
	prefix     = "NIXOS_CLOSURE_"
	configFile = prefix + "CONFIG"
)

// settingFlags are the settings that have flags.
var settingFlags = map[string]string{
	"cache":               "the `URL` of the cache, as in nix.conf",
	"pointer":             "the `name` of the pointer",
	"trusted-public-keys": "the `keys` whose signatures are accepted, with spaces between them",
	"require-sigs":        "whether what nobody signed is refused: `true` or false",
}

func (s *settings) addFlags(flags *pflag.FlagSet) {
	s.flags = flags
	flags.StringVar(&s.file, "config", "", "a YAML or JSON `file` with the keys of a source (also: $"+configFile+")")
	for name, usage := range settingFlags {
		if name == "require-sigs" {
			flags.String(name, "true", usage) // not Bool: whatever has the setting, it is read, and refused, alike
			flags.Lookup(name).NoOptDefVal = "true"
		} else {
			flags.String(name, "", usage)
		}
	}
}

// read reads the settings, with another pointer than they name unless name is "".
// What is wrong with one is told by where it was said.
func (s *settings) read(name pointer.Name, needPointer bool) (site.Config, build.Nix, error) {
	values, from, err := s.collect()
	if err != nil {
		return site.Config{}, build.Nix{}, err
	}
	if name != "" {
		values["pointer"], from["pointer"] = encode(string(name)), "the pointer"
	}
	for _, key := range []string{"cache", "pointer"} {
		if values[key] == nil && (key == "cache" || needPointer) {
			return site.Config{}, build.Nix{}, hint.Usage(hint.With(fmt.Errorf("no %s is named", key),
				"use --%s, %s, or %s: in the file of --config", key, variable(key), key))
		}
	}
	var problems fields.Problems
	o := fields.New(values, func(key string) string {
		if from[key] == "" { // a part of one
			return key
		}
		return from[key]
	}, &problems)
	o.Respell = func(key, near string) string {
		if from[key] == variable(key) {
			return variable(near)
		}
		return near
	}
	config, nix := site.Decode(o, needPointer), build.DecodeNix(o)
	o.Ignore(func(key string) bool { // variables of the environment that mean something else
		return from[key] == variable(key) && hint.Nearest(key, o.Known()) == ""
	})
	o.Finish()
	return config, nix, problems.Err()
}

// variable is the variable of the environment that has a setting.
func variable(key string) string { return prefix + strings.ToUpper(key) }

// collect gathers the settings from where they are said, in JSON, and says of each
// where that is.
func (s *settings) collect() (values map[string]json.RawMessage, from map[string]string, err error) {
	values, from, err = s.fromFile()
	if err != nil {
		return nil, nil, err
	}
	delete(values, hostKey)
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		if key, ok := strings.CutPrefix(name, prefix); ok && name != configFile && value != "" && key == strings.ToUpper(key) {
			key = strings.ToLower(key)
			values[key], from[key] = scalar(value), name
		}
	}
	s.flags.VisitAll(func(f *pflag.Flag) {
		if _, ok := settingFlags[f.Name]; ok && f.Changed {
			key := strings.ReplaceAll(f.Name, "-", "_")
			values[key], from[key] = scalar(f.Value.String()), "--"+f.Name
		}
	})
	return values, from, nil
}

// scalar is a text as JSON: a boolean if it is one, else a string.
func scalar(value string) json.RawMessage {
	if value == "true" || value == "false" {
		return json.RawMessage(value)
	}
	return encode(value)
}

// encode is a string as JSON.
func encode(value string) json.RawMessage {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // no string fails
	}
	return data
}

// fromFile reads the file, if one is named. Errors don't quote it: secrets may
// be in there.
func (s *settings) fromFile() (values map[string]json.RawMessage, from map[string]string, err error) {
	values, from = map[string]json.RawMessage{}, map[string]string{}
	file := s.file
	if file == "" {
		file = os.Getenv(configFile)
	}
	if file == "" {
		return values, from, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, hint.Usage(hint.With(fmt.Errorf("reading the settings: %w", err), "--config or %s names a file with the keys of a pipeline's source", configFile))
	}
	var content any
	if err := yaml.Unmarshal(data, &content); err != nil {
		return nil, nil, hint.Usage(fmt.Errorf("%s is neither YAML nor JSON%s", file, atLine.FindString(err.Error())))
	}
	if content == nil {
		return values, from, nil
	}
	settings, ok := content.(map[string]any)
	if !ok {
		return nil, nil, hint.Usage(hint.With(fmt.Errorf("%s: want keys and values", file), "it begins like a source in a pipeline: cache: s3://bucket"))
	}
	for _, whole := range []string{"resources", "source"} {
		if settings[whole] != nil && settings["cache"] == nil {
			return nil, nil, hint.Usage(hint.With(fmt.Errorf("%s: it has %s at its top", file, whole), "want the keys that stand below source: in a pipeline, by themselves: cache, pointer, …"))
		}
	}
	for key, value := range settings {
		data, err := json.Marshal(value)
		if err != nil {
			return nil, nil, hint.Usage(errors.New(file + ": all keys must be strings"))
		}
		values[key], from[key] = data, file+": "+key
	}
	return values, from, nil
}

var atLine = regexp.MustCompile(`: line \d+`)
