package ci_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The parts of pipelines in the README would work in one that has the resources
// which they use: no step wants what none before it has left.
func TestReadmePipelines(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(read(t, "../README.md"), -1)
	var jobs int
	for i, block := range blocks {
		if !strings.Contains(string(block[1]), "jobs:\n") {
			continue
		}
		pipeline, err := concourse.ParsePipeline(block[1])
		if err != nil {
			t.Errorf("block %d: %v", i+1, err)
			continue
		}
		declared := map[string]bool{}
		for _, resource := range pipeline.Resources {
			declared[resource.Name] = true
		}
		pipeline.ResourceTypes = append(pipeline.ResourceTypes, concourse.ResourceType{Name: "nixos-closure"})
		used := map[string]bool{}
		for _, job := range pipeline.Jobs {
			jobs++
			job.Each(func(s concourse.Step) {
				if s.Get != "" || s.Put != "" {
					used[s.ResourceName()] = true
				}
			})
		}
		for name := range used {
			if !declared[name] {
				pipeline.Resources = append(pipeline.Resources, concourse.Resource{Name: name, Type: "nixos-closure"})
			}
		}
		if err := pipeline.Check(nil); err != nil {
			t.Errorf("block %d: %v", i+1, err)
		}
	}
	if jobs < 10 {
		t.Errorf("found %d jobs", jobs)
	}
}

// The command by which the README makes a key works with a stock Nix, and what it
// makes is a key for us.
func TestReadmeKey(t *testing.T) {
	command := regexp.MustCompile("`(nix[^`]* cache\\.example\\.org-1[^`]*)`").FindSubmatch(read(t, "../README.md"))
	if command == nil {
		t.Fatal("the README makes no key")
	}
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		cmd := exec.Command("sh", "-euc", string(command[1]))
		cmd.Dir, cmd.Env = t.TempDir(), n.NewStore(t).Env()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		secret, err := nix.ParseSecretKey(string(read(t, filepath.Join(cmd.Dir, "secret-key"))))
		if err != nil {
			t.Fatal(err)
		}
		public, err := os.ReadFile(filepath.Join(cmd.Dir, "public-key"))
		if err != nil || strings.TrimSpace(string(public)) != secret.Public().String() {
			t.Errorf("the public key is %q (%v), want %s", public, err, secret.Public())
		}
	})
}

// A test that a document names for what it claims is there.
func TestNamedTests(t *testing.T) {
	tests := map[string]bool{}
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." {
			return filepath.SkipDir
		}
		if strings.HasSuffix(name, "_test.go") {
			for _, match := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllSubmatch(read(t, name), -1) {
				tests[string(match[1])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var named int
	for _, file := range append(glob(t, "../docs/*.md"), "../README.md") {
		for _, match := range regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(read(t, file), -1) {
			named++
			if !tests[string(match[1])] {
				t.Errorf("%s names %s, which is no test", file, match[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("found %d tests that are named", named)
	}
}
