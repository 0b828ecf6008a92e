package concourse_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
)

// A numbers resource has the versions that a test gives it, and puts what its
// input holds.
type numbers struct {
	there map[string][]string // by the resource's name, which is in its source
	calls []string
}

func (n *numbers) Check(_ context.Context, source map[string]any, _ concourse.Version) ([]concourse.Version, error) {
	var list []concourse.Version
	for _, v := range n.there[source["name"].(string)] {
		list = append(list, concourse.Version{"v": v})
	}
	return list, nil
}

func (n *numbers) Get(_ context.Context, source map[string]any, version concourse.Version, _ map[string]any, dir string) error {
	n.calls = append(n.calls, fmt.Sprintf("get %s %s", source["name"], version["v"]))
	return os.WriteFile(filepath.Join(dir, "v"), []byte(version["v"]), 0o644)
}

func (n *numbers) Put(_ context.Context, source map[string]any, params map[string]any, sources string) (concourse.Version, error) {
	data, err := os.ReadFile(filepath.Join(sources, params["from"].(string), "v"))
	n.calls = append(n.calls, fmt.Sprintf("put %s %s", source["name"], data))
	return concourse.Version{"v": string(data)}, err
}

const gated = `
resource_types: [{name: number, type: registry-image, source: {}, defaults: {name: none}}]
resources:
- {name: commit, type: number, source: {name: commit}}
- {name: candidate, type: number, source: {name: candidate}}
- {name: release, type: number, source: {name: release}}
jobs:
- name: build
  plan:
  - {get: commit, trigger: true}
  - {put: candidate, inputs: [commit], params: {from: commit}, no_get: true}
- name: test
  plan:
  - in_parallel:
    - {get: commit, passed: [build]}
    - {get: candidate, passed: [build], trigger: true}
  - task: test
    image: candidate
    config: {platform: linux, inputs: [{name: candidate}], params: {A: 1}, run: {path: "true"}}
- name: ship
  plan:
  - {get: candidate, passed: [test], trigger: true}
  - {put: release, inputs: [candidate], params: {from: candidate}, no_get: true}
`

// What a job gets must have passed the jobs before it, in Concourse's sense.
func TestEngine(t *testing.T) {
	pipeline, err := concourse.ParsePipeline([]byte(gated))
	if err != nil {
		t.Fatal(err)
	}
	n := &numbers{there: map[string][]string{"commit": {"1"}}}
	engine := &concourse.Engine{
		Pipeline: pipeline,
		Types:    map[string]concourse.Type{"number": n},
		Dir:      t.TempDir(),
		RunTask: func(_ context.Context, _ *concourse.Task, params map[string]any, image, dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, "candidate", "v"))
			if err == nil && string(data) == "2" {
				err = errors.New("red")
			}
			return err
		},
		Say: t.Logf,
	}
	for _, test := range []struct {
		what    string
		commits []string
		want    []string // calls
		builds  []string
	}{
		{"a green commit ships", []string{"1"},
			[]string{"get commit 1", "put candidate 1", "get candidate 1", "put release 1"},
			[]string{"build #1 true", "test #1 true", "ship #1 true"}},
		{"nothing new", []string{"1"}, nil, nil},
		{"a red one doesn't", []string{"1", "2"},
			[]string{"get commit 2", "put candidate 2", "get candidate 2"},
			[]string{"build #2 true", "test #2 false"}},
		{"nor later", []string{"1", "2"}, nil, nil},
		{"its fix does, the latest of several", []string{"2", "3", "4"},
			[]string{"get commit 4", "put candidate 4", "get candidate 4", "put release 4"},
			[]string{"build #3 true", "test #3 true", "ship #2 true"}},
		{"a version that comes back triggers nothing", []string{"4", "1"}, nil, nil},
		{"and hides behind a new one", []string{"5", "1"}, nil, nil},
	} {
		n.there["commit"], n.calls = test.commits, nil
		before := len(engine.Builds)
		if err := engine.Play(context.Background()); err != nil {
			t.Fatal(err)
		}
		var builds []string
		for _, b := range engine.Builds[before:] {
			builds = append(builds, fmt.Sprintf("%s #%d %v", b.Job, b.Number, b.Succeeded))
		}
		if diff := cmp.Diff(test.want, slices.Clone(n.calls)); diff != "" {
			t.Errorf("%s: calls (-want +got)\n%s", test.what, diff)
		}
		if diff := cmp.Diff(test.builds, builds); diff != "" {
			t.Errorf("%s: builds (-want +got)\n%s", test.what, diff)
		}
	}
}
