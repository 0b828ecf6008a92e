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

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// settings are where a source comes from: a file, the environment, flags.
type settings struct {
	file  string
	flags *pflag.FlagSet
}

const (
	prefix     = "NIXOS_CLOSURE_"
	configFile = prefix + "CONFIG"
)

// sourceFlags are the keys of a source that have flags.
var sourceFlags = map[string]string{
	"cache":               "the `URL` of the cache, as in nix.conf",
	"pointer":             "the `name` of the pointer",
	"trusted-public-keys": "the `keys` whose signatures are accepted, with spaces between them",
	"require-sigs":        "false accepts what nobody signed",
}

func (s *settings) addFlags(flags *pflag.FlagSet) {
	s.flags = flags
	flags.StringVar(&s.file, "config", "", "a YAML or JSON `file` with the keys of a source (also: $"+configFile+")")
	for name, usage := range sourceFlags {
		if name == "require-sigs" {
			flags.Bool(name, true, usage)
		} else {
			flags.String(name, "", usage)
		}
	}
}

// source returns the source, in JSON, with another pointer than it names unless
// that is "". What its keys hold is for the engine to judge.
func (s *settings) source(name pointer.Name) (json.RawMessage, error) {
	source, err := s.collect()
	if err != nil {
		return nil, err
	}
	if name != "" {
		source["pointer"] = string(name)
	}
	return encode(source, "cache", "pointer")
}

// sourceOfMany returns a source that need not name a pointer, in JSON.
func (s *settings) sourceOfMany() (json.RawMessage, error) {
	source, err := s.collect()
	if err != nil {
		return nil, err
	}
	return encode(source, "cache")
}

// encode returns a source in JSON, if it has the keys that it must have.
func encode(source map[string]any, required ...string) (json.RawMessage, error) {
	for _, key := range required {
		if source[key] == nil {
			return nil, misuse{hint.With(fmt.Errorf("no %s is named", key),
				"use --%s, %s%s, or %s: in the file of --config", key, prefix, strings.ToUpper(key), key)}
		}
	}
	return json.Marshal(source)
}

// collect gathers a source from where it is said.
func (s *settings) collect() (map[string]any, error) {
	source, err := s.fromFile()
	if err != nil {
		return nil, err
	}
	delete(source, hostKey)
	for _, variable := range os.Environ() {
		key, value, _ := strings.Cut(variable, "=")
		if name, ok := strings.CutPrefix(key, prefix); ok && key != configFile && value != "" {
			source[strings.ToLower(name)] = scalar(value)
		}
	}
	s.flags.VisitAll(func(f *pflag.Flag) {
		if _, ok := sourceFlags[f.Name]; ok && f.Changed {
			source[strings.ReplaceAll(f.Name, "-", "_")] = scalar(f.Value.String())
		}
	})
	return source, nil
}

// scalar is a value as JSON has it.
func scalar(value string) any {
	switch value {
	case "true":
		return true
	case "false":
		return false
	}
	return value
}

// fromFile reads the file, if one is named. Errors don't quote it: secrets may
// be in there.
func (s *settings) fromFile() (map[string]any, error) {
	file := s.file
	if file == "" {
		file = os.Getenv(configFile)
	}
	source := map[string]any{}
	if file == "" {
		return source, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, misuse{hint.With(fmt.Errorf("reading the source: %w", err), "--config or %s names a file with the keys of a pipeline's source", configFile)}
	}
	var content any
	if err := yaml.Unmarshal(data, &content); err != nil {
		return nil, misuse{fmt.Errorf("%s is neither YAML nor JSON%s", file, atLine.FindString(err.Error()))}
	}
	if content == nil {
		return source, nil
	}
	source, ok := content.(map[string]any)
	if !ok {
		return nil, misuse{hint.With(fmt.Errorf("%s: want keys and values", file), "it begins like a source in a pipeline: cache: s3://bucket")}
	}
	if _, err := json.Marshal(source); err != nil {
		return nil, misuse{errors.New(file + ": all keys must be strings")}
	}
	return source, nil
}

var atLine = regexp.MustCompile(`: line \d+`)
