package concourse

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Artifacts are the directories behind the artifacts whose files are known
// before a build runs: checkouts of this repository, say.
type Artifacts map[string]fs.FS

// coreTypes are the resource types that Concourse comes with.
var coreTypes = []string{"git", "github-release", "registry-image", "s3", "semver", "time"}

// Check finds what Concourse would refuse in a pipeline, and what would fail in
// a build of it whatever the build does.
func (p *Pipeline) Check(known Artifacts) error {
	c := checker{pipeline: p, known: known}
	for i, r := range p.Resources {
		if slices.ContainsFunc(p.Resources[:i], func(o Resource) bool { return o.Name == r.Name }) {
			c.fail("two resources are called %s", r.Name)
		}
		if !slices.Contains(coreTypes, r.Type) && !slices.ContainsFunc(p.ResourceTypes, func(t ResourceType) bool { return t.Name == r.Type }) {
			c.fail("resource %s: there is no type %s", r.Name, r.Type)
		}
		if !slices.ContainsFunc(p.Jobs, func(j Job) bool { return j.uses(r.Name) }) {
			c.fail("resource %s: no job uses it", r.Name)
		}
	}
	for i, job := range p.Jobs {
		if slices.ContainsFunc(p.Jobs[:i], func(o Job) bool { return o.Name == job.Name }) {
			c.fail("two jobs are called %s", job.Name)
		}
		c.job, c.artifacts, c.vars = job.Name, map[string]bool{}, map[string]bool{}
		for _, step := range job.Plan {
			c.check(step)
		}
	}
	return errors.Join(c.problems...)
}

// uses says whether a job gets or puts a resource.
func (j *Job) uses(resource string) (found bool) {
	j.Each(func(s Step) { found = found || (s.Get != "" || s.Put != "") && s.ResourceName() == resource })
	return found
}

// Each visits all the steps of a job, before those that are inside of them.
func (j *Job) Each(visit func(Step)) {
	var each func(steps []Step)
	each = func(steps []Step) {
		for _, s := range steps {
			visit(s)
			each(s.inside())
		}
	}
	each(j.Plan)
}

// inside are the steps that a step is made of, hooks included.
func (s *Step) inside() []Step {
	steps := slices.Clone(s.Do)
	if s.InParallel != nil {
		steps = append(steps, s.InParallel.Steps...)
	}
	for _, hook := range []*Step{s.OnSuccess, s.OnFailure, s.Ensure} {
		if hook != nil {
			steps = append(steps, *hook)
		}
	}
	return steps
}

// A checker goes through a plan in the order in which it would be run.
type checker struct {
	pipeline *Pipeline
	known    Artifacts
	problems []error

	job       string
	artifacts map[string]bool // that are there by now
	vars      map[string]bool // that are set by now, the local ones
}

func (c *checker) fail(format string, args ...any) {
	if c.job != "" {
		format, args = "job %s: "+format, append([]any{c.job}, args...)
	}
	c.problems = append(c.problems, fmt.Errorf(format, args...))
}

func (c *checker) check(s Step) {
	for _, v := range s.Across {
		c.vars[v.Var] = true
	}
	c.checkVars(s)
	switch {
	case s.Get != "":
		c.checkResource(s)
		c.artifacts[s.Get] = true
	case s.Put != "":
		c.checkResource(s)
		if s.Inputs != nil {
			for _, name := range s.Inputs.Names {
				c.want(name, "put %s: inputs", s.Put)
			}
		}
		c.artifacts[s.Put] = c.artifacts[s.Put] || !s.NoGet
	case s.Task != "":
		c.checkTask(s)
	case s.SetPipeline != "":
		c.checkSetPipeline(s)
	case s.LoadVar != "":
		c.read(s.File, "load_var %s", s.LoadVar)
		c.vars[s.LoadVar] = true
	}
	before := c.artifacts
	for _, step := range s.inside() {
		if s.InParallel == nil {
			c.check(step)
			continue
		}
		c.artifacts = maps.Clone(before) // steps side by side don't see what the others make
		c.check(step)
		defer maps.Copy(before, c.artifacts)
	}
	c.artifacts = before
}

func (c *checker) checkResource(s Step) {
	name := s.ResourceName()
	if !slices.ContainsFunc(c.pipeline.Resources, func(r Resource) bool { return r.Name == name }) {
		c.fail("there is no resource %s", name)
	}
	c.checkFound(s)
	for _, passed := range s.Passed {
		i := slices.IndexFunc(c.pipeline.Jobs, func(j Job) bool { return j.Name == passed })
		switch {
		case i < 0:
			c.fail("get %s: passed: there is no job %s", s.Get, passed)
		case passed == c.job:
			c.fail("get %s: passed: a job can't wait for itself", s.Get)
		case !c.pipeline.Jobs[i].uses(name):
			c.fail("get %s: passed: job %s neither gets nor puts it", s.Get, passed)
		}
	}
}

// checkFound complains of a get that nothing will ever find a version for: a
// job that starts by itself looks for those of its inputs that aren't put or
// passed on by another, but not if they are never to be checked.
func (c *checker) checkFound(s Step) {
	resource := slices.IndexFunc(c.pipeline.Resources, func(r Resource) bool { return r.Name == s.ResourceName() })
	job := slices.IndexFunc(c.pipeline.Jobs, func(j Job) bool { return j.Name == c.job })
	if s.Get == "" || len(s.Passed) > 0 || resource < 0 || c.pipeline.Resources[resource].CheckEvery != "never" {
		return
	}
	starts := false
	c.pipeline.Jobs[job].Each(func(s Step) { starts = starts || s.Trigger })
	if starts {
		c.fail("get %s: it is never checked, and no job that passes it on has put it", s.Get)
	}
}

func (c *checker) checkTask(s Step) {
	task := s.Config
	if s.File != "" {
		data, ok := c.read(s.File, "task %s", s.Task)
		if !ok {
			return
		}
		var err error
		if task, err = ParseTask(data); err != nil {
			c.fail("task %s: %s: %w", s.Task, s.File, err)
			return
		}
	}
	if task == nil {
		c.fail("task %s: neither file nor config", s.Task)
		return
	}
	if s.Image != "" {
		c.want(s.Image, "task %s: image", s.Task)
	} else if task.ImageResource == nil {
		c.fail("task %s: no image", s.Task)
	}
	for name := range s.Params {
		if _, ok := task.Params[name]; !ok {
			c.fail("task %s: it has no param %s", s.Task, name)
		}
	}
	inputs := map[string]string{} // by where they are
	for _, input := range task.Inputs {
		artifact := mapped(input.Name, s.InputMapping)
		if !input.Optional {
			c.want(artifact, "task %s: input", s.Task)
		}
		inputs[mapped(input.Name, map[string]string{input.Name: input.Path})] = artifact
	}
	// A script that is run by its path, or by a shell.
	for _, program := range append([]string{task.Run.Path}, task.Run.Args...) {
		dir, file, ok := strings.Cut(program, "/")
		if !ok || dir == "" || strings.ContainsAny(program, " \n") {
			continue
		}
		if inputs[dir] == "" {
			c.fail("task %s: it runs %s, but has no input %s", s.Task, program, dir)
		} else if known := c.known[inputs[dir]]; known != nil {
			info, err := fs.Stat(known, file)
			if err != nil {
				c.fail("task %s: it runs %s: %w", s.Task, program, err)
			} else if program == task.Run.Path && info.Mode()&0o111 == 0 {
				c.fail("task %s: it runs %s, which is not executable", s.Task, program)
			}
		}
	}
	for _, output := range task.Outputs {
		c.artifacts[mapped(output.Name, s.OutputMapping)] = true
	}
}

// mapped is what a name is mapped to, if it is.
func mapped(name string, mapping map[string]string) string {
	if to := mapping[name]; to != "" {
		return to
	}
	return name
}

func (c *checker) checkSetPipeline(s Step) {
	data, ok := c.read(s.File, "set_pipeline %s", s.SetPipeline)
	if !ok {
		return
	}
	other, err := ParsePipeline(data)
	if err != nil {
		c.fail("set_pipeline %s: %s: %w", s.SetPipeline, s.File, err)
		return
	}
	if err := other.Check(c.known); err != nil {
		c.fail("set_pipeline %s: %s: %w", s.SetPipeline, s.File, err)
	}
	// What isn't given is looked for in a credential manager, which not everybody has.
	for name := range Vars(data) {
		root, _, _ := strings.Cut(name, ".")
		if _, ok := s.Vars[root]; !ok && s.InstanceVars[root] == nil {
			c.fail("set_pipeline %s: %s wants %s, which isn't given", s.SetPipeline, s.File, root)
		}
	}
}

// read returns a file of an artifact that must be there. It is not ok if it
// can't be known what the file holds.
func (c *checker) read(file, format string, args ...any) (data []byte, ok bool) {
	artifact, inside, _ := strings.Cut(file, "/")
	c.want(artifact, format+": file", args...)
	known := c.known[artifact]
	if known == nil || slices.Contains(leftByGit, inside) {
		return nil, false
	}
	data, err := fs.ReadFile(known, path.Clean(inside))
	if err != nil {
		c.fail(format+": %w", append(args, err)...)
	}
	return data, err == nil
}

// leftByGit are what a get of the git resource leaves beside what is committed.
var leftByGit = []string{".git/ref", ".git/short_ref", ".git/commit_message", ".git/committer", ".git/branch"}

// want complains if an artifact isn't there yet.
func (c *checker) want(artifact, format string, args ...any) {
	if !c.artifacts[artifact] {
		c.fail(format+": there is no artifact %s by then, only %q", append(args, artifact, slices.Sorted(maps.Keys(c.artifacts)))...)
	}
}

// checkVars complains of local variables that nothing has set.
func (c *checker) checkVars(s Step) {
	s.Do, s.InParallel, s.OnSuccess, s.OnFailure, s.Ensure = nil, nil, nil, nil, nil // each is checked by itself
	data, err := yaml.Marshal(s)
	if err != nil {
		c.fail("%w", err)
	}
	for _, match := range regexp.MustCompile(`\(\(\.:([^.)]+)`).FindAllStringSubmatch(string(data), -1) {
		if !c.vars[match[1]] {
			c.fail("nothing has set ((.:%s))", match[1])
		}
	}
}

// Vars are the variables that a configuration wants from outside: cache.url for
// ((cache.url)).
func Vars(data []byte) map[string]bool {
	names := map[string]bool{}
	for _, match := range regexp.MustCompile(`\(\(([^.:)][^:)]*)\)\)`).FindAllSubmatch(data, -1) {
		names[string(match[1])] = true
	}
	return names
}
