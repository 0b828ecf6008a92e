// Package concourse is as much of Concourse as it takes to read and check our
// pipelines without it: the parts of its configuration that they use, as
// Concourse 8.2 has them, and the rules by which names in it must resolve.
//
// It is stricter than Concourse, which finds out only while a build runs that a
// task's file, input or image isn't there, and it refuses what it doesn't know,
// though Concourse may: add it here when a pipeline uses it.
package concourse

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A Pipeline is what fly set-pipeline takes.
type Pipeline struct {
	ResourceTypes []ResourceType `yaml:"resource_types"`
	Resources     []Resource
	Jobs          []Job
}

// A ResourceType says in which image a resource's programs are.
type ResourceType struct {
	Name       string
	Type       string
	Source     map[string]any
	Defaults   map[string]any // of the sources of its resources
	Privileged bool
	CheckEvery string `yaml:"check_every"`
}

// A Resource is something outside that has versions.
type Resource struct {
	Name         string
	Type         string
	Icon         string
	Source       map[string]any
	CheckEvery   string `yaml:"check_every"`
	WebhookToken string `yaml:"webhook_token"`
}

// A Job is a plan, and when to run it.
type Job struct {
	Name        string
	Serial      bool
	MaxInFlight int `yaml:"max_in_flight"`
	Plan        []Step
}

// A Step is one of a plan. Exactly one of the first group says of which kind it
// is; the other keys are for some kinds only.
type Step struct {
	Get         string
	Put         string
	Task        string
	SetPipeline string `yaml:"set_pipeline"`
	LoadVar     string `yaml:"load_var"`
	Do          []Step
	InParallel  *InParallel `yaml:"in_parallel"`

	Resource string
	Params   map[string]any

	Passed  []string
	Trigger bool

	Inputs    *Inputs
	NoGet     bool           `yaml:"no_get"`
	GetParams map[string]any `yaml:"get_params"`

	File          string
	Config        *Task
	Image         string
	Privileged    bool
	InputMapping  map[string]string `yaml:"input_mapping"`
	OutputMapping map[string]string `yaml:"output_mapping"`
	Vars          map[string]any
	InstanceVars  map[string]any `yaml:"instance_vars"`

	Across    []AcrossVar
	FailFast  bool `yaml:"fail_fast"`
	Attempts  int
	Timeout   string
	OnSuccess *Step `yaml:"on_success"`
	OnFailure *Step `yaml:"on_failure"`
	Ensure    *Step
}

// kinds are the kinds of steps, with the keys that each may have besides those
// that all may have.
var (
	kinds = map[string][]string{
		"get":          {"resource", "params", "passed", "trigger"},
		"put":          {"resource", "params", "inputs", "no_get", "get_params"},
		"task":         {"file", "config", "image", "privileged", "params", "vars", "input_mapping", "output_mapping"},
		"set_pipeline": {"file", "vars", "instance_vars"},
		"load_var":     {"file"},
		"do":           {},
		"in_parallel":  {},
	}
	modifiers = []string{"across", "fail_fast", "attempts", "timeout", "on_success", "on_failure", "ensure"}
)

// UnmarshalYAML refuses steps of no kind or of two, and keys that their kind
// doesn't have.
func (s *Step) UnmarshalYAML(node *yaml.Node) error {
	type plain Step
	if err := decodeStrictly(node, (*plain)(s)); err != nil {
		return err
	}
	var keys []string
	for i := 0; i < len(node.Content); i += 2 {
		keys = append(keys, node.Content[i].Value)
	}
	known := slices.DeleteFunc(slices.Sorted(maps.Keys(kinds)), func(kind string) bool { return !slices.Contains(keys, kind) })
	if len(known) != 1 {
		return fmt.Errorf("line %d: a step must be of one kind, this one is %q", node.Line, known)
	}
	for _, key := range keys {
		if key != known[0] && !slices.Contains(kinds[known[0]], key) && !slices.Contains(modifiers, key) {
			return fmt.Errorf("line %d: a %s step has no %s", node.Line, known[0], key)
		}
	}
	return nil
}

// ResourceName is the resource of a get or put.
func (s *Step) ResourceName() string {
	for _, name := range []string{s.Resource, s.Get} {
		if name != "" {
			return name
		}
	}
	return s.Put
}

// InParallel is a list of steps, or one with a limit.
type InParallel struct {
	Steps    []Step
	Limit    int
	FailFast bool `yaml:"fail_fast"`
}

func (p *InParallel) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.SequenceNode {
		return node.Decode(&p.Steps)
	}
	type plain InParallel
	return decodeStrictly(node, (*plain)(p))
}

// Inputs are the artifacts that a put sees: those listed, or all.
type Inputs struct {
	Names []string
	All   bool
}

func (i *Inputs) UnmarshalYAML(node *yaml.Node) error {
	switch {
	case node.Kind == yaml.SequenceNode:
		return node.Decode(&i.Names)
	case node.Value == "all":
		i.All = true
		return nil
	}
	return fmt.Errorf("line %d: inputs: want a list or all, got %s", node.Line, node.Value)
}

// An AcrossVar is a variable that a step is repeated for.
type AcrossVar struct {
	Var         string
	Values      any
	MaxInFlight any `yaml:"max_in_flight"`
}

// A Task is what the file of a task step holds.
type Task struct {
	Platform      string
	ImageResource *struct {
		Type   string
		Source map[string]any
	} `yaml:"image_resource"`
	Inputs []struct {
		Name, Path string
		Optional   bool
	}
	Outputs []struct{ Name, Path string }
	Caches  []struct{ Path string }
	Params  map[string]any
	Run     struct {
		Path string
		Args []string
		Dir  string
		User string
	}
}

// ParsePipeline parses a pipeline.
func ParsePipeline(data []byte) (*Pipeline, error) {
	p := new(Pipeline)
	if err := parse(data, p); err != nil {
		return nil, err
	}
	if len(p.Jobs) == 0 {
		return nil, errors.New("no jobs")
	}
	return p, nil
}

// ParseTask parses a task.
func ParseTask(data []byte) (*Task, error) {
	t := new(Task)
	if err := parse(data, t); err != nil {
		return nil, err
	}
	if t.Platform != "linux" {
		return nil, fmt.Errorf("platform: want linux, got %q", t.Platform)
	}
	if t.Run.Path == "" {
		return nil, errors.New("run.path: missing")
	}
	return t, nil
}

func parse(data []byte, into any) error {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	return decoder.Decode(into)
}

// decodeStrictly is node.Decode, which forgets that unknown keys are refused.
func decodeStrictly(node *yaml.Node, into any) error {
	data, err := yaml.Marshal(node)
	if err != nil {
		return err
	}
	if err := parse(data, into); err != nil {
		// Its lines are those of the step alone.
		return fmt.Errorf("in the step at line %d: %s", node.Line, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return nil
}
