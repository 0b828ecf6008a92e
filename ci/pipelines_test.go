// Package ci holds no code: its tests look after the pipelines and tasks that
// people copy.
package ci_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
)

// Concourse would take each pipeline as it stands, and each file that one names
// is in this repository. (What our own resource type says to its sources and
// params is tested where they are decoded.)
func TestPipelines(t *testing.T) {
	repository := os.DirFS("..")
	for _, file := range pipelines(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			pipeline, err := concourse.ParsePipeline(read(t, file))
			if err == nil {
				err = pipeline.Check(concourse.Artifacts{"tasks": repository, "repository": repository})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Whoever copies a pipeline learns from its head which variables to fill in.
func TestPipelinesNameTheirVariables(t *testing.T) {
	for _, file := range pipelines(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if filepath.Base(file) == "host.yml" {
				file = "examples/fleet.yml" // which sets it
			}
			said := explained(t, file)
			for name := range concourse.Vars(read(t, file)) {
				root, field, _ := strings.Cut(name, ".")
				if !said[root] || field != "" && !said[field] {
					t.Errorf("%s doesn't say what ((%s)) is", file, name)
				}
			}
		})
	}
}

// explained are the words before a colon in the head of a pipeline, and of those
// whose variables it wants too.
func explained(t *testing.T, file string) map[string]bool {
	t.Helper()
	words := map[string]bool{}
	for _, line := range head(read(t, file)) {
		for _, match := range regexp.MustCompile(`([a-z_]+):( |$)`).FindAllStringSubmatch(line, -1) {
			words[match[1]] = true
		}
		if match := regexp.MustCompile(`has what ([a-z-]+\.yml) wants`).FindStringSubmatch(line); match != nil {
			maps.Copy(words, explained(t, filepath.Join("examples", match[1])))
		}
	}
	return words
}

// Each task says what goes in and comes out, has a use, and runs a script that
// is there.
func TestTasks(t *testing.T) {
	var used []string
	for _, file := range pipelines(t) {
		pipeline, err := concourse.ParsePipeline(read(t, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range pipeline.Jobs {
			job.Each(func(s concourse.Step) { used = append(used, filepath.Base(s.File)) })
		}
	}
	for _, file := range glob(t, "tasks/*.yml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			task, err := concourse.ParseTask(read(t, file))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(used, filepath.Base(file)) {
				t.Error("no pipeline uses it")
			}
			said := strings.Join(head(read(t, file)), "\n")
			names := slices.Collect(maps.Keys(task.Params))
			for _, input := range task.Inputs {
				names = append(names, input.Name)
			}
			for _, output := range task.Outputs {
				names = append(names, output.Name)
			}
			for _, name := range names {
				if !regexp.MustCompile(`(?m)(^# *[a-z]* +|, )` + name + `\b`).MatchString(said) {
					t.Errorf("its head doesn't say what %s is", name)
				}
			}
		})
	}
}

func pipelines(t *testing.T) []string {
	t.Helper()
	return append(glob(t, "examples/*.yml"), "pipeline.yml")
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files are called %s (%v)", pattern, err)
	}
	return files
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// head is the comment that a file begins with.
func head(data []byte) []string {
	lines := strings.Split(string(data), "\n")
	end := slices.IndexFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "#") })
	return lines[:end]
}

// What documents point to in this repository is there.
func TestLinks(t *testing.T) {
	for _, file := range append(glob(t, "../docs/*.md"), "README.md", "../README.md") {
		for _, match := range regexp.MustCompile(`\]\(([^)#:]*)(?:#([^)]*))?\)`).FindAllStringSubmatch(string(read(t, file)), -1) {
			target := file
			if match[1] != "" {
				target = filepath.Join(filepath.Dir(file), match[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s points to %s: %v", file, match[1], err)
			} else if match[2] != "" && !slices.Contains(anchors(t, target), match[2]) {
				t.Errorf("%s points to #%s of %s, which has no such heading", file, match[2], target)
			}
		}
	}
}

// anchors are what the headings of a Markdown file are called in links.
func anchors(t *testing.T, file string) []string {
	t.Helper()
	var names []string
	for _, match := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(read(t, file)), -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N}\- _]`).ReplaceAllString(strings.ToLower(match[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}
