package resource

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The README's pipelines are what people copy: each must be one that the
// programs accept, and that does not get what it has just put.
func TestReadmePipelines(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) < 5 {
		t.Fatalf("found %d blocks of YAML in the README", len(blocks))
	}
	key := nixtest.NewKey(t, "cache.example.org-1")
	for _, block := range blocks {
		if err := checkPipeline(block[1], key.Secret); err != nil {
			t.Errorf("in the README's\n%s\n%v", block[1], err)
		}
	}
}

// The README has a row for every key that the programs know.
func TestReadmeNamesEveryKey(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Join(regexp.MustCompile("(?m)^\\| `.*? \\|").FindAllString(string(readme), -1), "\n")
	for _, test := range []struct {
		fields string
		decode func(*request)
	}{
		{"source", func(r *request) { decodeSource(r) }},
		{"params", func(r *request) { decodeInParams(r) }},
		{"params", func(r *request) { decodeOutParams(r) }},
	} {
		r := &request{fields: map[string]json.RawMessage{test.fields: json.RawMessage(`{"?": 1}`)}}
		test.decode(r)
		for _, key := range knownKeys(r.err()) {
			if !strings.Contains(rows, "`"+key+"`") {
				t.Errorf("the README has no row for %s of %s", key, test.fields)
			}
		}
	}
}

// knownKeys are those that the error of an unknown key lists.
func knownKeys(err error) []string {
	for _, line := range told(err) {
		if _, list, ok := strings.Cut(line, "hint: known keys of "); ok {
			_, list, _ = strings.Cut(list, ": ")
			return strings.Split(list, ", ")
		}
	}
	panic("no error lists the known keys")
}

func TestCheckPipeline(t *testing.T) {
	const resource = "resources: [{name: web-1, type: nixos-closure, source: {cache: file:///c, pointer: web-1, signing_key: ((key))}}]\n"
	key := nixtest.NewKey(t, "cache.example.org-1")
	for _, test := range []struct{ name, pipeline, want string }{
		{"good", resource + "jobs: [{name: j, plan: [{get: config}, {put: web-1, inputs: [config], params: {file: config/x.nix}, no_get: true}]}]", ""},
		{"of other types", resource + "jobs: [{name: j, plan: [{put: slack, params: {text: hello}}]}]", ""},
		{"a get", resource + "jobs: [{name: j, plan: [{get: web-1, params: {format: none}}]}]", ""},
		{"a put's get", resource + "jobs: [{name: j, plan: [{put: web-1, params: {file: config/x.nix}, get_params: {skip_download: true}}]}]", ""},
		{"a put's bad get", resource + "jobs: [{name: j, plan: [{put: web-1, params: {file: config/x.nix}, get_params: {skip: true}}]}]", "get_params of put web-1: params.skip: unknown key"},
		{"a put of everything", resource + "jobs: [{name: j, plan: [{put: web-1, params: {file: config/x.nix}}]}]", "put web-1: neither no_get nor get_params"},
		{"deep inside", resource + "jobs: [{name: j, plan: [{in_parallel: {steps: [{do: [{try: {put: web-1, params: {file: x}}}]}]}}]}]", "put web-1: neither no_get nor get_params"},
		{"misspelt source", strings.Replace(resource, "pointer:", "pionter:", 1), "source.pointer: missing\nsource.pionter: unknown key"},
		{"misspelt param", resource + "jobs: [{name: j, plan: [{put: web-1, params: {flie: x}, no_get: true}]}]", "put web-1: params: they don't say what to publish\nparams.flie: unknown key"},
		{"misspelt param of a get", resource + "jobs: [{name: j, plan: [{get: web-1, params: {formt: cache}}]}]", "get web-1: params.formt: unknown key"},
		{"not YAML", "jobs: [", "yaml: line 1: did not find expected node content"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			if err := checkPipeline(test.pipeline, key.Secret); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// checkPipeline decodes a pipeline's sources and params of this resource type
// as the programs do. Variables are signing keys. A pipeline may leave out its
// resources: then those are ours that are called web-….
func checkPipeline(pipeline, secret string) error {
	var document map[string]any
	if err := yaml.Unmarshal([]byte(regexp.MustCompile(`\(\([^)]*\)\)`).ReplaceAllString(pipeline, secret)), &document); err != nil {
		return err
	}
	resources, _ := document["resources"].([]any)
	isOurs := func(name any) bool {
		if resources == nil {
			return strings.HasPrefix(fmt.Sprint(name), "web-")
		}
		return slices.ContainsFunc(resources, func(r any) bool {
			resource := r.(map[string]any)
			return resource["name"] == name && resource["type"] == "nixos-closure"
		})
	}
	var errs []error
	decode := func(fields map[string]any, decode func(*request)) error {
		data, err := json.Marshal(fields)
		if err != nil {
			return err
		}
		r, err := readRequest(strings.NewReader(string(data)))
		if err != nil {
			return err
		}
		decode(r)
		return r.err()
	}
	for _, r := range resources {
		if resource := r.(map[string]any); isOurs(resource["name"]) {
			errs = append(errs, decode(map[string]any{"source": resource["source"]}, func(r *request) { decodeSource(r) }))
		}
	}
	eachStep(document["jobs"], func(step map[string]any) {
		params := map[string]any{"params": step["params"]}
		if name := step["get"]; name != nil && isOurs(name) {
			if err := decode(params, func(r *request) { decodeInParams(r) }); err != nil {
				errs = append(errs, fmt.Errorf("get %s: %w", name, err))
			}
		}
		if name := step["put"]; name != nil && isOurs(name) {
			if err := decode(params, func(r *request) { decodeOutParams(r) }); err != nil {
				errs = append(errs, fmt.Errorf("put %s: %w", name, err))
			}
			if err := decode(map[string]any{"params": step["get_params"]}, func(r *request) { decodeInParams(r) }); err != nil {
				errs = append(errs, fmt.Errorf("get_params of put %s: %w", name, err))
			}
			if step["no_get"] != true && step["get_params"] == nil {
				errs = append(errs, fmt.Errorf("put %s: neither no_get nor get_params", name))
			}
		}
	})
	return errors.Join(errs...)
}

// eachStep visits every mapping below node, which all steps of a plan are,
// however they are nested.
func eachStep(node any, visit func(map[string]any)) {
	switch node := node.(type) {
	case map[string]any:
		visit(node)
		for _, child := range node {
			eachStep(child, visit)
		}
	case []any:
		for _, child := range node {
			eachStep(child, visit)
		}
	}
}
