package concourse_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
)

const resources = `
resource_types: [{name: nixos-closure, type: registry-image, source: {repository: r}}]
resources:
- {name: config, type: git, source: {uri: u}}
- {name: web-1, type: nixos-closure, source: {pointer: web-1}}
- {name: quiet, type: git, check_every: never, source: {uri: u}}
jobs:
- {name: first, plan: [{get: config, trigger: true}, {put: web-1, inputs: [config], no_get: true}]}
- {name: loud, plan: [{put: quiet, no_get: true}]}
`

const task = `
platform: linux
inputs: [{name: config}]
outputs: [{name: made}]
params: {A: 1}
run: {path: config/script}
`

func TestCheck(t *testing.T) {
	for _, test := range []struct{ name, job, want string }{
		{"good", "{name: j, plan: [{get: web-1, passed: [first]}]}", ""},
		{"no kind of step", "{name: j, plan: [{trigger: true}]}", "a step must be of one kind"},
		{"two kinds of step", "{name: j, plan: [{get: config, put: web-1}]}", "a step must be of one kind"},
		{"a key of another kind", "{name: j, plan: [{get: config, no_get: true}]}", "a get step has no no_get"},
		{"a key of none", "{name: j, plan: [{get: config, triger: true}]}", "field triger not found"},
		{"a job's unknown key", "{name: j, serail: true, plan: [{get: config}]}", "field serail not found"},
		{"deep inside", "{name: j, plan: [{in_parallel: {limit: 2, steps: [{do: [{get: config, triger: true}]}]}}]}", "field triger not found"},
		{"never looked for", "{name: j, plan: [{get: config, trigger: true}, {get: quiet}]}", "get quiet: it is never checked"},
		{"looked for when somebody starts it", "{name: j, plan: [{get: config}, {get: quiet}]}", ""},
		{"unknown resource", "{name: j, plan: [{get: confg}]}", "job j: there is no resource confg"},
		{"unknown resource under another name", "{name: j, plan: [{get: config, resource: confg}]}", "job j: there is no resource confg"},
		{"passed by nobody", "{name: j, plan: [{get: config, passed: [frist]}]}", "there is no job frist"},
		{"passed by who doesn't have it", "{name: j, plan: [{get: web-1, passed: [k]}]}\n- {name: k, plan: [{get: config}]}", "job k neither gets nor puts it"},
		{"job twice", "{name: first, plan: [{get: config}]}", "two jobs are called first"},
		{"put without its input", "{name: j, plan: [{put: web-1, inputs: [config]}]}", "put web-1: inputs: there is no artifact config by then"},
		{"put that isn't got", "{name: j, plan: [{get: config}, {put: web-1, no_get: true}, {load_var: v, file: web-1/path}]}", "there is no artifact web-1 by then"},
		{"put that is got", "{name: j, plan: [{get: config}, {put: web-1}, {load_var: v, file: web-1/path}]}", ""},
		{"side by side", "{name: j, plan: [{in_parallel: [{get: config}, {load_var: v, file: config/task.yml}]}]}", "there is no artifact config by then"},
		{"one after the other", "{name: j, plan: [{in_parallel: [{get: config}]}, {load_var: v, file: config/task.yml}]}", ""},
		{"local variable", "{name: j, plan: [{get: config}, {load_var: v, file: config/task.yml}, {put: web-1, params: {x: ((.:v.w))}}]}", ""},
		{"local variable unset", "{name: j, plan: [{get: config}, {put: web-1, params: {x: ((.:v))}}]}", "nothing has set ((.:v))"},
		{"task", "{name: j, plan: [{get: config}, {task: t, file: config/task.yml, image: config}, {load_var: v, file: made/v}]}", ""},
		{"task without its file", "{name: j, plan: [{get: config}, {task: t, file: config/tusk.yml, image: config}]}", "open tusk.yml"},
		{"task that isn't one", "{name: j, plan: [{get: config}, {task: t, file: config/bad.yml, image: config}]}", "field ouputs not found"},
		{"task without an image", "{name: j, plan: [{get: config}, {task: t, file: config/task.yml}]}", "task t: no image"},
		{"task's unknown param", "{name: j, plan: [{get: config}, {task: t, file: config/task.yml, image: config, params: {B: 1}}]}", "it has no param B"},
		{"task's missing input", "{name: j, plan: [{get: c, resource: config}, {task: t, file: c/task.yml, image: c}]}", "task t: input: there is no artifact config by then"},
		{"task without its script", "{name: j, plan: [{get: config}, {task: t, image: config, config: {platform: linux, inputs: [{name: config}], run: {path: config/scrip}}}]}", "it runs config/scrip"},
		{"task with a plain file for a script", "{name: j, plan: [{get: config}, {task: t, image: config, config: {platform: linux, inputs: [{name: config}], run: {path: config/task.yml}}}]}", "which is not executable"},
		{"pipeline that lacks a variable", "{name: j, plan: [{get: config}, {set_pipeline: p, file: config/pipeline.yml, vars: {a: 1}}]}", "wants b, which isn't given"},
		{"pipeline that has its variables", "{name: j, plan: [{get: config}, {set_pipeline: p, file: config/pipeline.yml, vars: {a: 1}, instance_vars: {b: 1}}]}", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := fstest.MapFS{
				"task.yml":     {Data: []byte(task)},
				"bad.yml":      {Data: []byte("platform: linux\nouputs: []\n")},
				"script":       {Mode: 0o755},
				"pipeline.yml": {Data: []byte("resources: [{name: r, type: git, source: {uri: ((a.x))}}]\njobs: [{name: ((b)), plan: [{get: r}]}]")},
			}
			pipeline, err := concourse.ParsePipeline([]byte(resources + "- " + test.job))
			if err == nil {
				err = pipeline.Check(concourse.Artifacts{"config": files, "c": files})
			}
			switch {
			case test.want == "" && err != nil:
				t.Errorf("want no error, got\n%v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("want an error with %q, got\n%v", test.want, err)
			}
		})
	}
}

func TestVars(t *testing.T) {
	got := concourse.Vars([]byte(`a: ((x)), b: "((y.z))-((y.w))", c: ((.:local)), d: ((vault:v))`))
	if diff := cmp.Diff(map[string]bool{"x": true, "y.z": true, "y.w": true}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
