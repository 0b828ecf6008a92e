// Package image holds no code: its tests look after the Dockerfile, and after
// the images that ci/image/build makes of it.
package image_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A stage of a Dockerfile.
type stage struct {
	name, from   string
	instructions []string // from FROM on, each on one line
}

// stages reads a Dockerfile, and the values that its arguments have before the
// first stage.
func stages(t *testing.T, text string) (all []stage, arguments map[string]string) {
	t.Helper()
	text = regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`\\\n\s*`).ReplaceAllString(text, "")
	arguments = map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
		case word == "FROM":
			m := regexp.MustCompile(`^(?:--platform=\S+ )?(\S+)(?: AS (\S+))?$`).FindStringSubmatch(rest)
			if m == nil {
				t.Fatalf("a stage that this test doesn't understand: %s", line)
			}
			all = append(all, stage{name: m[2], from: m[1], instructions: []string{line}})
		case len(all) > 0:
			last := &all[len(all)-1]
			last.instructions = append(last.instructions, line)
		case word == "ARG":
			name, value, _ := strings.Cut(rest, "=")
			arguments[name] = value
		default:
			t.Fatalf("before the first stage: %s", line)
		}
	}
	return all, arguments
}

// installs are the instructions of a stage, and of those that it starts from,
// that do more than take files and say what they are.
func installs(all []stage, target stage) []string {
	var found []string
	for {
		for _, instruction := range target.instructions {
			word, rest, _ := strings.Cut(instruction, " ")
			switch {
			case slices.Contains([]string{"FROM", "ARG", "LABEL"}, word):
			case word == "COPY" && strings.HasPrefix(rest, "--from=builder "):
			default:
				found = append(found, instruction)
			}
		}
		i := slices.IndexFunc(all, func(s stage) bool { return s.name == target.from })
		if i < 0 {
			return found
		}
		target = all[i]
	}
}

// What users get is made of files that were copied: nothing is installed, and
// nothing is run that could install.
func TestFinalStages(t *testing.T) {
	all, arguments := stages(t, read(t, "../../Dockerfile"))
	want := map[string]string{"base_image": "nixos/nix:", "builder_image": "golang:", "BUILDPLATFORM": ""}
	for name, prefix := range want {
		if value, ok := arguments[name]; !ok || !strings.HasPrefix(value, prefix) {
			t.Errorf("ARG %s is %q, want one that begins with %q", name, value, prefix)
		}
	}
	var names []string
	byName := map[string]stage{}
	for _, s := range all {
		names = append(names, s.name)
		byName[s.name] = s
	}
	if diff := cmp.Diff([]string{"builder", "slim", "resource", "test-builder", "tests", ""}, names); diff != "" {
		t.Errorf("stages (-want +got)\n%s", diff)
	}
	last := all[len(all)-1]
	if last.from != "resource" || byName["resource"].from != "${base_image}" || byName["slim"].from != "scratch" || byName["tests"].from != "resource" {
		t.Error("the stages are made of others than they should")
	}
	if !strings.HasPrefix(byName["builder"].instructions[0], "FROM --platform=${BUILDPLATFORM} ${builder_image}") {
		t.Errorf("the builder isn't of the machine that builds: %s", byName["builder"].instructions[0])
	}
	for _, target := range []stage{byName["slim"], last} {
		if found := installs(all, target); len(found) > 0 {
			t.Errorf("%s installs:\n%s", target.instructions[0], strings.Join(found, "\n"))
		}
	}

	// And what it looks for, it finds.
	all, _ = stages(t, "FROM scratch AS base\nRUN apk add \\\n  nix\nFROM base\nCOPY --from=builder /x /\nADD https://example.org/x /\n")
	if diff := cmp.Diff([]string{"ADD https://example.org/x /", "RUN apk add nix"}, installs(all, all[1])); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Labels are what a registry shows.
func TestLabels(t *testing.T) {
	all, _ := stages(t, read(t, "../../Dockerfile"))
	for _, s := range all {
		if s.name != "slim" && s.name != "resource" {
			continue
		}
		text := strings.Join(s.instructions, "\n")
		for _, label := range []string{"title", "description", "source", "documentation", "version", "revision"} {
			if !regexp.MustCompile(`org\.opencontainers\.image\.` + label + `="[^"]+"`).MatchString(text) {
				t.Errorf("%s has no label %s", s.name, label)
			}
		}
	}
}

// The same sources and the same version make the same bytes, wherever they lie:
// what the Dockerfile builds, anybody can build again.
func TestReproducible(t *testing.T) {
	here, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "another", "place")
	if err := os.MkdirAll(elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"go.mod", "go.sum", "cmd", "internal", "resource"} {
		if out, err := exec.Command("cp", "-R", filepath.Join(here, name), elsewhere).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	first, second := build(t, here, "1.2.3"), build(t, elsewhere, "1.2.3")
	if !bytes.Equal(first, second) {
		t.Error("two builds of the same sources in different places differ")
	}
	if bytes.Equal(first, build(t, here, "1.2.4")) {
		t.Error("another version makes the same program: the linker isn't told of it")
	}
}

// build compiles nixos-closure as the Dockerfile does, in a checkout.
func build(t *testing.T, dir, version string) []byte {
	t.Helper()
	flags, _ := goBuild(t, "../../Dockerfile")
	program := filepath.Join(t.TempDir(), "nixos-closure")
	for i := range flags {
		flags[i] = strings.ReplaceAll(flags[i], "$version", version)
	}
	cmd := exec.Command("go", slices.Concat([]string{"build"}, flags, []string{"-o", program, "./cmd/nixos-closure"})...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building in %s: %v\n%s", dir, err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// goBuild are the flags of the go build of the programs in a file, and the
// packages that it builds.
func goBuild(t *testing.T, file string) (flags []string, packages string) {
	t.Helper()
	text := regexp.MustCompile(`\\\n\s*`).ReplaceAllString(read(t, file), "")
	m := regexp.MustCompile(`go build (.*?) -ldflags (?:"([^"]*)"|'([^']*)') -o \S+ (\./cmd/\S+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("%s builds no programs that this test understands", file)
	}
	return append(strings.Fields(m[1]), "-ldflags", m[2]+m[3]), m[4]
}

// make build and the Dockerfile make the same.
func TestFlags(t *testing.T) {
	docker, _ := goBuild(t, "../../Dockerfile")
	makefile, _ := goBuild(t, "../../Makefile")
	for i := range makefile {
		makefile[i] = strings.ReplaceAll(makefile[i], "$(version)", "$version")
	}
	if diff := cmp.Diff(docker, makefile); diff != "" {
		t.Errorf("flags (-Dockerfile +Makefile)\n%s", diff)
	}
}

// No image of ours has a time zone of its own.
func TestTimeZones(t *testing.T) {
	for _, name := range []string{"check", "in", "out", "nixos-closure"} {
		out, err := exec.Command("go", "list", "-deps", "../../cmd/"+name).Output()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(strings.Fields(string(out)), "time/tzdata") {
			t.Errorf("%s has no time zones in it", name)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
