package image_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// testTasks runs tasks that want the full image in it: with what it has, and
// nothing else. Their inputs belong to another user, as in Concourse.
func testTasks(t *testing.T, s story, full image) {
	config := filepath.Join(nixtest.Sample(t), "config")
	input := tempDir(t)
	git(t, input, "init", "--quiet", "--initial-branch=main")
	write(t, filepath.Join(input, "flake.nix"), "{ outputs = _: { }; }\n")
	git(t, input, "add", ".")
	git(t, input, "commit", "--quiet", "--message", "Begin")
	write(t, filepath.Join(config, "flake.nix"), `{
  inputs.other.url = "git+file:///tmp/other";
  outputs = _: { nixosConfigurations = builtins.mapAttrs (_: toplevel: { config.system.build = { inherit toplevel; }; }) (import ./.); };
}
`)
	write(t, filepath.Join(config, "motd"), "The day of the tasks.\n") // which nobody has built
	git(t, config, "init", "--quiet", "--initial-branch=main")
	git(t, config, "add", ".")
	git(t, config, "commit", "--quiet", "--message", "Begin")
	other := mount{input, "/tmp/other"}

	updated := s.task(full, "update-lock", nil, map[string]string{"config": config}, other)["updated"]
	if said := git(t, updated, "log", "--max-count=1", "--format=%an %B"); !strings.Contains(said, "nixos-closure flake.lock: Add") || !strings.Contains(said, "Added input 'other'") {
		t.Errorf("update-lock has committed: %s", said)
	}

	params := map[string]string{"HOSTS": "web-1", "NIX_CONFIG": "substituters =", "NIXOS_CLOSURE_SIGNING_KEY": s.key.Secret}
	for source, param := range map[string]string{"cache": "CACHE", "access_key_id": "ACCESS_KEY_ID", "secret_access_key": "SECRET_ACCESS_KEY"} {
		params["NIXOS_CLOSURE_"+param] = s.source[source].(string)
	}
	paths := s.task(full, "build", params, map[string]string{"config": updated}, other)["paths"]
	if got := read(t, filepath.Join(paths, "web-1")); !strings.HasSuffix(got, "-nixos-system-web-1-25.05\n") {
		t.Errorf("build has left %q", got)
	}
}

// testReadmeTasks runs the tasks of the README that build with the official
// image, and puts what they leave as is written there.
func testReadmeTasks(t *testing.T, s story, full image) {
	config := filepath.Join(nixtest.Sample(t), "config")
	var found int
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(read(t, "../../README.md"), -1) {
		if !strings.Contains(block[1], "{repository: nixos/nix}") {
			continue
		}
		pipeline, err := concourse.ParsePipeline([]byte(block[1]))
		if err != nil {
			t.Fatal(err)
		}
		for _, job := range pipeline.Jobs {
			t.Run(job.Name, func(t *testing.T) {
				s := s
				s.t = t
				var outputs map[string]string
				for _, step := range job.Plan {
					switch {
					case step.Task != "":
						of := full
						of.privileged = step.Privileged
						outputs = s.runTask(of, step.Task, step.Config, nil, map[string]string{"config": config})
					case step.Put != "":
						got := s.put(full, full.env, step.Put+"-"+job.Name, step.Params, parent(t, "built", outputs["built"]))
						if !strings.HasSuffix(got.Path, "-nixos-system-web-1-25.05") {
							t.Errorf("put %s", got.Path)
						}
						found++
					}
				}
			})
		}
	}
	if found < 2 {
		t.Errorf("found %d such jobs", found)
	}
}

// task runs a task of this project.
func (s *story) task(of image, name string, params, inputs map[string]string, mounts ...mount) (outputs map[string]string) {
	s.t.Helper()
	config, err := concourse.ParseTask([]byte(read(s.t, "../tasks/"+name+".yml")))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.runTask(of, name, config, params, inputs, mounts...)
}

// runTask runs a task in a container of an image, and returns its outputs. An input
// may be another's output.
func (s *story) runTask(of image, name string, config *concourse.Task, params, inputs map[string]string, mounts ...mount) (outputs map[string]string) {
	t := s.t
	t.Helper()
	const dir = "/tmp/build/task"
	tasks := tempDir(t)
	if err := os.CopyFS(filepath.Join(tasks, "ci/tasks"), os.DirFS("../tasks")); err != nil {
		t.Fatal(err)
	}
	given := map[string]string{"tasks": tasks}
	for input, from := range inputs {
		given[input] = tempDir(t)
		if out, err := exec.Command("cp", "-a", from+"/.", given[input]).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for input, at := range given {
		const somebody = 1234
		if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%[1]d", somebody), at).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		mounts = append(mounts, mount{at, filepath.Join(dir, input)})
	}
	outputs = map[string]string{}
	for _, output := range config.Outputs {
		outputs[output.Name] = tempDir(t)
		mounts = append(mounts, mount{outputs[output.Name], filepath.Join(dir, output.Name)})
	}
	for _, cache := range config.Caches {
		mounts = append(mounts, mount{tempDir(t), filepath.Join(dir, cache.Path)})
	}
	for _, m := range mounts {
		if !of.privileged && strings.HasPrefix(m.destination, dir) && given[filepath.Base(m.destination)] == "" {
			giveToRoot(t, m.source)
		}
	}
	var env []string
	for param, value := range config.Params {
		text, _ := value.(string)
		if given, ok := params[param]; ok {
			text = given
		}
		env = append(env, param+"="+text)
	}
	c := start(t, of, of.env, s.cache, mounts...)
	command := append([]string{"/bin/sh", "-c", `cd ` + dir + ` && exec "$@"`, "sh", config.Run.Path}, config.Run.Args...)
	out, said, err := c.exec("", env, command...)
	t.Logf("task %s:\n%s%s", name, out, said)
	if err != nil {
		t.Fatalf("task %s: %v", name, err)
	}
	return outputs
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=somebody", "-c", "user.email=somebody@example.org"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
