// Rehearsal plays a whole pipeline, ci/examples/gated.yml, without Concourse:
// the programs of this project, each in a directory of its own and with a store
// of its own, in the order in which Concourse would call them. It prints what
// happens, for those who have read docs/tutorial.md.
//
//	go run ./ci/rehearsal PROGRAMS
//
// PROGRAMS is the directory of check, in, out and nixos-closure. A Nix must be on PATH.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/ci/concourse"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: rehearsal <directory of check, in, out and nixos-closure>")
		os.Exit(2)
	}
	if err := rehearse(ctx, os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

//go:embed driver.nix
var driver []byte

//go:embed flake.nix
var flake []byte

// A rehearsal is one that is going on.
type rehearsal struct {
	dir      string // everything is below it
	programs string
	out      io.Writer
	secret   string
	public   string
	files    map[string][]byte // of the config, besides the sample
	edit     *strings.Replacer // of the pipeline
	engine   *concourse.Engine
	fenced   bool              // a block of code is open
	labels   map[string]string // of hashes
}

func newRehearsal(out io.Writer) *rehearsal {
	return &rehearsal{
		out: out, labels: map[string]string{},
		files: map[string][]byte{"driver.nix": driver, "flake.nix": flake}, edit: strings.NewReplacer(),
	}
}

// rehearse plays the story, and writes it down.
func rehearse(ctx context.Context, programs string, out io.Writer) (err error) {
	r := newRehearsal(out)
	if r.programs, err = filepath.Abs(programs); err != nil {
		return err
	}
	if r.dir, err = os.MkdirTemp("", "rehearsal"); err != nil {
		return err
	}
	defer r.remove()
	if err := r.prepare(ctx); err != nil {
		return err
	}
	return r.story(ctx)
}

func (r *rehearsal) story(ctx context.Context) error {
	r.prose("# gated.yml, played from start to end\n",
		"The real `check`, `in` and `out` are called in Concourse's order and by its rules, each in a directory of its own and",
		"with a store of its own. Only Concourse isn't there, and the machine that the test would boot; `make vm-test` boots",
		"one. The config is ci/sample, a system as small as it gets.")

	r.prose("\n## A commit\n",
		"Somebody pushes to the config's repository. `build` puts the host's system and the driver of its test to pointers",
		"that no host follows, `test` runs the driver, and `ship` moves the host's pointer, without building or uploading",
		"anything.")
	if err := r.play(ctx); err != nil {
		return err
	}

	r.prose("\n## The host follows\n",
		"It has a stock Nix, ci/examples/follow.sh and the public key, and asks the cache what to run.")
	if err := r.follow(ctx); err != nil {
		return err
	}

	r.prose("\n## A commit that breaks something\n",
		"`build` is green: it is a perfectly good closure. The test isn't, and so `ship` is offered nothing. The host asks",
		"again, and is told what it runs already, so nothing happens.")
	if err := r.change(ctx, "Update nginx", "default.nix", "s/nginx-1.28.0/nginx-1.29.0/; s/It works/It is broken/"); err != nil {
		return err
	}
	if err := r.play(ctx); err != nil {
		return err
	}
	if err := r.follow(ctx); err != nil {
		return err
	}

	r.prose("\n## Its fix\n", "What hasn't changed is in the cache already. Nothing has to be cleaned up after the red candidate: the next one",
		"ships, and what it changes is said against what the host runs.")
	if err := r.change(ctx, "Take the nginx that works", "default.nix", "s/nginx-1.29.0/nginx-1.29.1/; s/It is broken/It works again/"); err != nil {
		return err
	}
	if err := r.play(ctx); err != nil {
		return err
	}
	if err := r.follow(ctx); err != nil {
		return err
	}

	r.prose("\n## And back\n",
		"It works, but not for everybody. Going back is a new generation with an old path. All of it is in the cache still,",
		"and on the host, so it is a matter of seconds, whatever the size of the system.")
	if err := r.goBack(ctx); err != nil {
		return err
	}
	return r.follow(ctx)
}

// prepare makes the repositories, keys and stores, and reads the pipeline.
func (r *rehearsal) prepare(ctx context.Context) error {
	if err := r.run(ctx, ".", "ci/sample/copy", r.path("config")); err != nil {
		return err
	}
	files := map[string][]byte{
		"nix/nix.conf": []byte("sandbox = true\nsandbox-paths =\nbuild-users-group =\nsubstituters =\n"),
	}
	for name, data := range r.files {
		files["config/"+name] = data
	}
	for name, data := range files {
		if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(r.path(name), data, 0o644); err != nil {
			return err
		}
	}
	config := r.path("config")
	for _, args := range [][]string{{"init", "--quiet", "--initial-branch=main"}, {"add", "."}, {"commit", "--quiet", "--message", "Begin"}} {
		if err := r.run(ctx, config, "git", args...); err != nil {
			return err
		}
	}
	if err := r.run(ctx, r.dir, "nix-store", "--generate-binary-cache-key", "cache.example.org-1", "secret", "public"); err != nil {
		return err
	}
	for file, key := range map[string]*string{"secret": &r.secret, "public": &r.public} {
		data, err := os.ReadFile(r.path(file))
		if err != nil {
			return err
		}
		*key = string(data)
	}

	follow, err := os.ReadFile("ci/examples/follow.sh")
	if err != nil {
		return err
	}
	for name, value := range map[string]string{"cache": "file://" + r.path("cache"), "key": strings.TrimSpace(r.public)} {
		follow = regexp.MustCompile("(?m)^"+name+"=.*$").ReplaceAllLiteral(follow, []byte(name+"="+value))
	}
	if err := os.WriteFile(r.path("follow.sh"), follow, 0o755); err != nil {
		return err
	}
	return r.set("ci/examples/gated.yml")
}

// set makes a file the pipeline that is played.
func (r *rehearsal) set(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pipeline, err := concourse.ParsePipeline([]byte(r.fillIn(string(data))))
	if err != nil {
		return err
	}
	ours := &programs{r}
	r.engine = &concourse.Engine{
		Pipeline: pipeline,
		Types:    map[string]concourse.Type{"git": &git{r}, "nixos-closure": ours, "nixos-closure-slim": ours},
		Dir:      r.path("containers"),
		RunTask:  r.runTask,
		Say:      func(format string, args ...any) { r.say("\n"+format+"\n", args...) },
	}
	return nil
}

// fillIn fills in the variables of a pipeline.
func (r *rehearsal) fillIn(pipeline string) string {
	values := map[string]string{
		"cache.url":           "file://" + r.path("cache"),
		"cache.signing_key":   r.secret,
		"cache.public_key":    r.public,
		"release.public_key":  r.public,
		"release.signing_key": r.secret,
		"config.uri":          r.path("config"),
		"config.branch":       "main",
		"tasks.uri":           ".",
		"tasks.branch":        "main",
		"host":                "web-1",
		"test":                "checks.x86_64-linux.web-1.driver",
	}
	return regexp.MustCompile(`\(\(([^)]*)\)\)`).ReplaceAllStringFunc(r.edit.Replace(pipeline), func(v string) string { return values[strings.Trim(v, "()")] })
}

// play lets the pipeline do what there is to do.
func (r *rehearsal) play(ctx context.Context) error {
	defer r.unfence()
	return r.engine.Play(ctx)
}

// follow is what README.md has a host do.
func (r *rehearsal) follow(ctx context.Context) error {
	defer r.unfence()
	r.say("$ ./follow.sh\n")
	follow := exec.CommandContext(ctx, "ci/host", r.path("host"), r.path("follow.sh"))
	follow.Env = append(r.nix("local"), "XDG_CACHE_HOME="+r.path("host"))
	return r.show(follow)
}

// change edits a file of the config and commits that.
func (r *rehearsal) change(ctx context.Context, message, file, edit string) error {
	if err := r.run(ctx, r.path("config"), "sed", "-i", edit, file); err != nil {
		return err
	}
	r.say("$ sed -i '%s' %s\n$ git commit --all -m '%s' && git push\n", edit, file, message)
	return r.run(ctx, r.path("config"), "git", "commit", "--quiet", "--all", "--message", message)
}

// goBack is what somebody does who doesn't like what has shipped.
func (r *rehearsal) goBack(ctx context.Context) error {
	r.say("$ nixos-closure rollback web-1 --reason 'slow for users of old browsers'\n")
	cmd := exec.CommandContext(ctx, filepath.Join(r.programs, "nixos-closure"), "rollback", "web-1", "--reason", "slow for users of old browsers")
	cmd.Env = []string{"NIXOS_CLOSURE_CACHE=file://" + r.path("cache"), "NIXOS_CLOSURE_SIGNING_KEY=" + r.secret}
	defer r.unfence()
	return r.show(cmd)
}

// runTask runs a task in its image, which is a closure.
func (r *rehearsal) runTask(ctx context.Context, task *concourse.Task, params map[string]any, image, dir string) error {
	if image == "" {
		return errors.New("it has no image")
	}
	container := concourse.Container(filepath.Join(image, "rootfs"), dir)
	cmd := exec.CommandContext(ctx, container[0], append(append(container[1:], task.Run.Path), task.Run.Args...)...)
	var metadata struct{ Env []string }
	data, err := os.ReadFile(filepath.Join(image, "metadata.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &metadata); err != nil {
		return err
	}
	cmd.Env = metadata.Env
	for name, value := range params {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%v", name, value))
	}
	return r.show(cmd)
}

// programs are our resource type: check, in and out.
type programs struct{ *rehearsal }

func (p *programs) Check(ctx context.Context, source map[string]any, from concourse.Version) (list []concourse.Version, err error) {
	return list, p.call(ctx, "check", "", map[string]any{"source": source, "version": from}, &list)
}

func (p *programs) Get(ctx context.Context, source map[string]any, version concourse.Version, params map[string]any, destination string) error {
	var answer struct{}
	return p.call(ctx, "in", destination, map[string]any{"source": source, "version": version, "params": params}, &answer)
}

func (p *programs) Put(ctx context.Context, source map[string]any, params map[string]any, sources string) (concourse.Version, error) {
	var answer struct{ Version concourse.Version }
	err := p.call(ctx, "out", sources, map[string]any{"source": source, "params": params}, &answer)
	return answer.Version, err
}

// call calls a program as Concourse does. Only out has a Nix, with an empty
// store.
func (p *programs) call(ctx context.Context, name, dir string, request map[string]any, answer any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.programs, name), dir)
	cmd.Stdin = bytes.NewReader(data)
	cmd.Env = []string{"BUILD_PIPELINE_NAME=web-1"}
	if name == "out" {
		store, err := os.MkdirTemp(p.dir, "store")
		if err != nil {
			return err
		}
		cmd.Env = append(cmd.Env, p.nix(store)...)
	}
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := p.show(cmd); err != nil {
		return err
	}
	return json.Unmarshal(stdout.Bytes(), answer)
}

// git is a repository on this machine; "." is this one, as it lies there.
type git struct{ *rehearsal }

func (g *git) Check(ctx context.Context, source map[string]any, from concourse.Version) ([]concourse.Version, error) {
	if source["uri"] == "." {
		return []concourse.Version{{"ref": "as it lies there"}}, nil
	}
	out, err := exec.CommandContext(ctx, "git", "-C", source["uri"].(string), "rev-parse", source["branch"].(string)).Output()
	return []concourse.Version{{"ref": strings.TrimSpace(string(out))}}, err
}

func (g *git) Get(ctx context.Context, source map[string]any, version concourse.Version, _ map[string]any, destination string) error {
	if source["uri"] == "." {
		return os.CopyFS(filepath.Join(destination, "ci", "tasks"), os.DirFS("ci/tasks"))
	}
	if err := g.run(ctx, destination, "git", "clone", "--quiet", source["uri"].(string), "."); err != nil {
		return err
	}
	return g.run(ctx, destination, "git", "checkout", "--quiet", "--detach", version["ref"])
}

func (g *git) Put(ctx context.Context, source map[string]any, params map[string]any, sources string) (concourse.Version, error) {
	repository := filepath.Join(sources, params["repository"].(string))
	args := []string{"push", "--quiet", source["uri"].(string), fmt.Sprintf("HEAD:refs/heads/%s", source["branch"])}
	if params["force"] == true {
		args = append(args, "--force")
	}
	if err := g.run(ctx, repository, "git", args...); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, "git", "-C", repository, "rev-parse", "HEAD").Output()
	return concourse.Version{"ref": strings.TrimSpace(string(out))}, err
}

// run runs a program that nobody needs to see.
func (r *rehearsal) run(ctx context.Context, dir, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	for _, variable := range []string{"GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"} {
		cmd.Env = append(cmd.Env, variable+"=somebody")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

// nix is the environment of a Nix whose store is below dir.
func (r *rehearsal) nix(dir string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.path("nix"), "XDG_CACHE_HOME=" + dir,
		"NIX_CONF_DIR=" + r.path("nix"), "NIX_REMOTE=" + dir,
	}
}

// show runs a program, and writes down what it says to people.
func (r *rehearsal) show(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stderr = &said
	if cmd.Stdout == nil {
		cmd.Stdout = &said
	}
	err := cmd.Run()
	for line := range strings.Lines(said.String()) {
		if !noise.MatchString(line) {
			r.say("%s\n", strings.TrimRight("    "+line, " \n"))
		}
	}
	return err
}

// prose writes Markdown.
func (r *rehearsal) prose(lines ...string) {
	r.unfence()
	fmt.Fprintln(r.out, strings.Join(lines, "\n"))
}

// say writes a line of what happens, in a block of code. What is different each
// time, or is longer than it is interesting, is left out.
func (r *rehearsal) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !r.fenced {
		fmt.Fprintln(r.out, "\n```")
		text = strings.TrimPrefix(text, "\n")
	}
	r.fenced = true
	text = strings.ReplaceAll(text, r.dir, "/srv")
	text = storeHash.ReplaceAllStringFunc(text, r.label)
	for _, p := range unstable {
		text = p.pattern.ReplaceAllString(text, p.instead)
	}
	io.WriteString(r.out, text)
}

// storeHash is that of a store path. It depends on the busybox that all is built
// with.
var storeHash = regexp.MustCompile(`\b[0-9a-z]{32}-`)

// label is what stands for the hash of a store path: a…, b…, in the order in
// which they turn up.
func (r *rehearsal) label(hash string) string {
	if _, ok := r.labels[hash]; !ok {
		r.labels[hash] = string(rune('a'+len(r.labels))) + "…-"
	}
	return r.labels[hash]
}

var unstable = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b[0-9a-f]{40}\b`), "…"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:]+Z`), "…"},
	{regexp.MustCompile(`, with(out)? KVM.*`), ""}, // nothing boots here
}

// noise is what Nix says of each derivation, in any order, and what out says of
// the sample's initrd: each build of it has other inodes in it.
var noise = regexp.MustCompile(`^( {2}|building '|these \d|this deriv|copying path '|warning: the cache has)`)

func (r *rehearsal) unfence() {
	if r.fenced {
		fmt.Fprintln(r.out, "```")
	}
	r.fenced = false
}

func (r *rehearsal) path(name string) string { return filepath.Join(r.dir, name) }

// remove removes everything, store paths too, which are read-only.
func (r *rehearsal) remove() {
	exec.Command("chmod", "-R", "u+w", r.dir).Run()
	os.RemoveAll(r.dir)
}
