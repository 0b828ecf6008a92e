package concourse

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A Type is a resource type, as its programs are called.
type Type interface {
	Check(ctx context.Context, source map[string]any, from Version) ([]Version, error)
	Get(ctx context.Context, source map[string]any, version Version, params map[string]any, destination string) error
	Put(ctx context.Context, source map[string]any, params map[string]any, sources string) (Version, error)
}

// An Engine plays a pipeline: it checks, finds out which jobs there is something
// for, and runs their plans, one step after the other. Each container is a
// directory of its own, below Dir.
//
// It plays gets, puts and tasks, in_parallel and do. Variables must have been
// filled in.
type Engine struct {
	Pipeline *Pipeline
	Types    map[string]Type // those of the pipeline, by name
	Dir      string

	// RunTask runs a task in its directory, which has its inputs and outputs.
	// The image is that of the step, a directory; "" if there is none.
	RunTask func(ctx context.Context, task *Task, params map[string]any, image, dir string) error

	// Say is told what happens: "build #1: put candidate".
	Say func(format string, args ...any)

	Builds []Build

	versions   map[string]versions
	containers int
	cache      map[string]string // of gets: where what they have got is
}

// Play checks and runs builds until there is nothing left to do.
func (e *Engine) Play(ctx context.Context) error {
	for {
		if err := e.check(ctx); err != nil {
			return err
		}
		i := slices.IndexFunc(e.Pipeline.Jobs, func(job Job) bool {
			inputs, ok := e.inputs(job)
			return ok && e.triggers(job, inputs)
		})
		if i < 0 {
			return nil
		}
		if err := e.Build(ctx, e.Pipeline.Jobs[i].Name); err != nil {
			return err
		}
	}
}

// Trigger runs a job because somebody has started it by hand, with whatever is the
// newest by then.
func (e *Engine) Trigger(ctx context.Context, name string) error {
	if err := e.check(ctx); err != nil {
		return err
	}
	return e.Build(ctx, name)
}

// check looks for new versions of what any job gets from outside.
func (e *Engine) check(ctx context.Context) error {
	if e.versions == nil {
		e.versions, e.cache = map[string]versions{}, map[string]string{}
	}
	for _, r := range e.Pipeline.Resources {
		if !slices.ContainsFunc(e.Pipeline.Jobs, func(j Job) bool { return j.getsFirst(r.Name) }) {
			continue
		}
		known := e.versions[r.Name]
		var from Version
		if len(known) > 0 {
			from = known[len(known)-1]
		}
		list, err := e.Types[r.Type].Check(ctx, e.source(r), from)
		if err != nil {
			return fmt.Errorf("checking %s: %w", r.Name, err)
		}
		e.versions[r.Name] = known.listed(list)
	}
	return nil
}

// getsFirst says whether a job gets a resource that needn't have passed another.
func (j *Job) getsFirst(resource string) (found bool) {
	j.Each(func(s Step) { found = found || s.Get != "" && s.ResourceName() == resource && len(s.Passed) == 0 })
	return found
}

// source is a resource's, with the defaults of its type.
func (e *Engine) source(r Resource) map[string]any {
	source := map[string]any{}
	for _, t := range e.Pipeline.ResourceTypes {
		if t.Name == r.Type {
			maps.Copy(source, t.Defaults)
		}
	}
	maps.Copy(source, r.Source)
	return source
}

// Build runs a job once, whatever triggers it. A step that fails makes the build
// red, and is no error.
func (e *Engine) Build(ctx context.Context, name string) error {
	i := slices.IndexFunc(e.Pipeline.Jobs, func(j Job) bool { return j.Name == name })
	inputs, ok := e.inputs(e.Pipeline.Jobs[i])
	if !ok {
		return fmt.Errorf("job %s can't run: not all of its inputs have versions", name)
	}
	number := 1
	for _, b := range e.Builds {
		if b.Job == name {
			number++
		}
	}
	run := run{
		Engine:    e,
		build:     Build{Job: name, Number: number, Inputs: inputs, resources: map[string]Version{}},
		artifacts: map[string]string{},
	}
	e.Say("%s #%d", name, number)
	err := run.steps(ctx, e.Pipeline.Jobs[i].Plan)
	run.build.Succeeded = err == nil
	e.Builds = append(e.Builds, run.build)
	if err != nil {
		e.Say("%s #%d is red: %v", name, number, err)
	}
	return ctx.Err()
}

// A run is a build that is under way.
type run struct {
	*Engine
	build     Build
	artifacts map[string]string // directories
}

func (r *run) steps(ctx context.Context, steps []Step) error {
	for _, s := range steps {
		var err error
		switch {
		case s.Get != "":
			err = r.get(ctx, s)
		case s.Put != "":
			err = r.put(ctx, s)
		case s.Task != "":
			err = r.task(ctx, s)
		case s.InParallel != nil:
			err = r.steps(ctx, s.InParallel.Steps)
		case s.Do != nil:
			err = r.steps(ctx, s.Do)
		default:
			err = fmt.Errorf("a step that can't be played: %+v", s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) get(ctx context.Context, s Step) error {
	resource, version := r.resource(s), r.build.Inputs[s.Get]
	r.build.resources[resource.Name] = version
	key := fmt.Sprint(resource.Type, r.source(resource), s.Params, version)
	if dir, ok := r.cache[key]; ok {
		r.artifacts[s.Get] = dir
		return nil
	}
	r.Say("%s #%d: get %s", r.build.Job, r.build.Number, s.Get)
	dir, err := r.container("get-" + s.Get)
	if err != nil {
		return err
	}
	if err := r.Types[resource.Type].Get(ctx, r.source(resource), version, s.Params, dir); err != nil {
		return fmt.Errorf("get %s: %w", s.Get, err)
	}
	r.artifacts[s.Get], r.cache[key] = dir, dir
	return nil
}

func (r *run) put(ctx context.Context, s Step) error {
	resource := r.resource(s)
	r.Say("%s #%d: put %s", r.build.Job, r.build.Number, s.Put)
	dir, err := r.container("put-" + s.Put)
	if err != nil {
		return err
	}
	for _, name := range s.Inputs.Names {
		if err := copyTree(r.artifacts[name], filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	version, err := r.Types[resource.Type].Put(ctx, r.source(resource), s.Params, dir)
	if err != nil {
		return fmt.Errorf("put %s: %w", s.Put, err)
	}
	r.build.resources[resource.Name] = version
	r.versions[resource.Name] = r.versions[resource.Name].put(version)
	return nil
}

func (r *run) task(ctx context.Context, s Step) error {
	r.Say("%s #%d: task %s", r.build.Job, r.build.Number, s.Task)
	task := s.Config
	if s.File != "" {
		artifact, file, _ := strings.Cut(s.File, "/")
		data, err := os.ReadFile(filepath.Join(r.artifacts[artifact], file))
		if err != nil {
			return err
		}
		if task, err = ParseTask(data); err != nil {
			return err
		}
	}
	dir, err := r.container("task-" + s.Task)
	if err != nil {
		return err
	}
	for _, input := range task.Inputs {
		if err := copyTree(r.artifacts[mapped(input.Name, s.InputMapping)], filepath.Join(dir, mapped(input.Name, map[string]string{input.Name: input.Path}))); err != nil {
			return err
		}
	}
	for _, output := range task.Outputs {
		path := filepath.Join(dir, mapped(output.Name, map[string]string{output.Name: output.Path}))
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		r.artifacts[mapped(output.Name, s.OutputMapping)] = path
	}
	params := maps.Clone(task.Params)
	maps.Copy(params, s.Params)
	if err := r.RunTask(ctx, task, params, r.artifacts[s.Image], dir); err != nil {
		return fmt.Errorf("task %s: %w", s.Task, err)
	}
	return nil
}

func (r *run) resource(s Step) Resource {
	i := slices.IndexFunc(r.Pipeline.Resources, func(o Resource) bool { return o.Name == s.ResourceName() })
	return r.Pipeline.Resources[i]
}

// container makes the directory of a container.
func (e *Engine) container(name string) (string, error) {
	e.containers++
	dir := filepath.Join(e.Dir, fmt.Sprintf("%02d-%s", e.containers, name))
	return dir, os.MkdirAll(dir, 0o755)
}

// copyTree copies a tree, so that nobody changes what another has.
func copyTree(from, to string) error {
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copying %s: %w: %s", from, err, out)
	}
	return nil
}
