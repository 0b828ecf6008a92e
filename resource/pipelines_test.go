package resource

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// Pipelines are what people copy, from the README and from ci: each must be one
// that the programs accept, and that does not get what it has just put.
func TestPipelines(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	pipelines := map[string]string{}
	for i, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		pipelines[fmt.Sprintf("README.md, %d", i+1)] = block[1]
	}
	files, err := filepath.Glob("../ci/examples/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pipelines[filepath.Base(file)] = string(data)
	}
	if len(pipelines) < 10 {
		t.Fatalf("found %d pipelines", len(pipelines))
	}
	for name, pipeline := range pipelines {
		t.Run(name, func(t *testing.T) {
			if err := checkPipeline(t, pipeline); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckPipeline(t *testing.T) {
	const resource = "resources: [{name: web-1, type: nixos-closure, source: {cache: file:///c, pointer: web-1, signing_key: ((key))}}]\n"
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
		{"defaults", "resource_types: [{name: nixos-closure-slim, defaults: {cache: ((cache.url)), signing_key: ((key))}}]\nresources: [{name: web-1, type: nixos-closure-slim, source: {pointer: ((host))-candidate}}]", ""},
		{"misspelt defaults", "resource_types: [{name: nixos-closure, defaults: {cache: ((cache.url)), signing_kee: ((key)), require_sigs: false}}]\nresources: [{name: web-1, type: nixos-closure, source: {pointer: web-1}}]", "source.signing_kee: unknown key"},
		{"not YAML", "jobs: [", "yaml: line 1: did not find expected node content"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			if err := checkPipeline(t, test.pipeline); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// checkPipeline decodes a pipeline's sources and params of this resource type
// as the programs do. It may leave out its resources: then those are ours that
// are called web-….
func checkPipeline(t *testing.T, pipeline string) error {
	t.Helper()
	var document map[string]any
	if err := yaml.Unmarshal([]byte(interpolate(t, pipeline)), &document); err != nil {
		return err
	}
	defaults := map[any]map[string]any{}
	for _, node := range list(document["resource_types"]) {
		defaults[node["name"]], _ = node["defaults"].(map[string]any)
	}
	ours := map[any]bool{}
	var errs []error
	for _, node := range list(document["resources"]) {
		if !strings.HasPrefix(fmt.Sprint(node["type"]), "nixos-closure") {
			continue
		}
		ours[node["name"]] = true
		source := maps.Clone(defaults[node["type"]])
		if source == nil {
			source = map[string]any{}
		}
		maps.Copy(source, node["source"].(map[string]any))
		errs = append(errs, decoded(map[string]any{"source": source}, func(r *request) { r.source() }))
	}
	eachStep(document["jobs"], func(step map[string]any) {
		isOurs := func(name any) bool {
			if resource := step["resource"]; resource != nil {
				name = resource
			}
			return ours[name] || document["resources"] == nil && strings.HasPrefix(fmt.Sprint(name), "web-")
		}
		params := map[string]any{"params": step["params"]}
		if name := step["get"]; name != nil && isOurs(name) {
			if err := decoded(params, func(r *request) { decodeGet(r) }); err != nil {
				errs = append(errs, fmt.Errorf("get %s: %w", name, err))
			}
		}
		if name := step["put"]; name != nil && isOurs(name) {
			if err := decoded(params, func(r *request) { decodePut(r) }); err != nil {
				errs = append(errs, fmt.Errorf("put %s: %w", name, err))
			}
			if err := decoded(map[string]any{"params": step["get_params"]}, func(r *request) { decodeGet(r) }); err != nil {
				errs = append(errs, fmt.Errorf("get_params of put %s: %w", name, err))
			}
			if step["no_get"] != true && step["get_params"] == nil {
				errs = append(errs, fmt.Errorf("put %s: neither no_get nor get_params", name))
			}
		}
	})
	return errors.Join(errs...)
}

// interpolate fills in a pipeline's variables, each by its name.
func interpolate(t *testing.T, pipeline string) string {
	key := nixtest.NewKey(t, "cache.example.org-1")
	return regexp.MustCompile(`\(\(([^)]*)\)\)`).ReplaceAllStringFunc(pipeline, func(variable string) string {
		switch name := strings.Trim(variable, "()"); {
		case strings.HasSuffix(name, "url"):
			return "file:///srv/nix-cache"
		case strings.HasSuffix(name, "public_key"):
			return key.Public
		case strings.HasSuffix(name, "key"):
			return key.Secret
		case name == "host", strings.HasSuffix(name, "pointer"):
			return "web-1"
		case name == "format":
			return "cache"
		default:
			return "x"
		}
	})
}

// decoded decodes the fields of a request, strictly.
func decoded(fields map[string]any, decode func(*request)) error {
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

// list is a YAML list of mappings.
func list(node any) []map[string]any {
	var mappings []map[string]any
	elements, _ := node.([]any)
	for _, element := range elements {
		mappings = append(mappings, element.(map[string]any))
	}
	return mappings
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
