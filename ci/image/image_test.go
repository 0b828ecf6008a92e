package image_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// number is the version of the images: that of those that make image has left,
// or of those that are built here.
var number = cmp.Or(os.Getenv("NIXOS_CLOSURE_TEST_IMAGE_VERSION"), "1.2.3-test")

// In containers like Concourse's, the image that people build does what it is
// for: out builds and pushes, check sees, in fetches; and the slim one does all
// that needs no Nix. (make image has built them; make test does it here, in a
// shorter form.)
func TestImages(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can build images and make containers here")
	}
	images := map[string]image{}
	for _, target := range []string{"slim", "full"} {
		images[target] = unpack(t, built(t, target))
	}
	nothingMounted(t)
	slim, full := images["slim"], images["full"]
	t.Run("slim", func(t *testing.T) { testSlim(t, slim) })
	for target, image := range images {
		if got := image.labels["org.opencontainers.image.version"]; got != number {
			t.Errorf("%s: its label says version %q, want %s", target, got, number)
		}
	}

	s3 := s3test.Versitygw(t)
	server, err := url.Parse(s3.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := story{
		t: t, cache: &gate{server: server, agents: map[string]bool{}}, key: nixtest.NewKey(t, "cache.example.org-1"),
		source: map[string]any{
			"cache":         s3test.CacheAt("http://"+door, s3.Bucket(t)+"/cache").String(),
			"access_key_id": s3.AccessKeyID, "secret_access_key": s3.SecretAccessKey,
			"substituters": []string{}, // there is no way out
		},
	}
	// Once as a registry hands the image to Concourse, with its environment, and
	// once as a worker has it from a rootfs.tgz, without.
	sources := nixtest.Sample(t)
	if err := os.Chmod(filepath.Dir(sources), 0o711); err != nil {
		t.Fatal(err)
	}
	giveToRoot(t, sources)
	first := s.put(full, full.env, "web-1", map[string]any{"file": "config/default.nix", "attribute": "web-1"}, sources)
	if first.Generation != "1" {
		t.Errorf("the first put made generation %s", first.Generation)
	}
	second := s.put(full, nil, "web-1", map[string]any{"file": "config/default.nix", "attribute": "web-2"}, sources)
	for name, of := range map[string]image{"full": full, "slim": slim} {
		versions := s.check(of, "web-1", first)
		if len(versions) != 2 || versions[0] != first || versions[1] != second {
			t.Errorf("%s: check sees %v, want %v and %v", name, versions, first, second)
		}
		s.get(of, "web-1", first, nil)
	}

	// What needs no Nix.
	candidate := s.get(slim, "web-1", first, map[string]any{"format": "none"})
	if got := s.put(slim, slim.env, "web-2", map[string]any{"promote": "candidate"}, parent(t, "candidate", candidate)); got.Path != first.Path {
		t.Errorf("promoted %s, want %s", got.Path, first.Path)
	}
	closure := s.get(slim, "web-1", second, map[string]any{"format": "cache"})
	if got := s.put(slim, slim.env, "web-3", map[string]any{"closure": "closure/cache"}, parent(t, "closure", closure)); got.Path != second.Path {
		t.Errorf("handed over %s, want %s", got.Path, second.Path)
	}
	_, said, err := s.run(slim, slim.env, "out", "/tmp/build/put", map[string]any{
		"source": s.with("web-1", "signing_key", s.key.Secret), "params": map[string]any{"file": "config/default.nix", "attribute": "web-1"},
	}, mount{filepath.Join(sources, "config"), "/tmp/build/put/config"})
	if err == nil || !strings.Contains(said, "hint: ") || !strings.Contains(said, "use an image that has it") {
		t.Errorf("building without a Nix: %v\n%s", err, said)
	}

	testTasks(t, s, full)
	testReadmeTasks(t, s, full)
	testSandbox(t, s, full)

	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if len(s.cache.agents) != 1 || !s.cache.agents["nixos-closure/"+number] {
		t.Errorf("the server has been visited by %v, want nixos-closure/%s alone", s.cache.agents, number)
	}
}

// built is where an image is: where make image has left it, or a directory that
// it is built in now.
func built(t *testing.T, target string) string {
	t.Helper()
	if dir := os.Getenv("NIXOS_CLOSURE_TEST_IMAGES"); dir != "" {
		return filepath.Join(dir, target)
	}
	tool(t, "buildah")
	dir := t.TempDir()
	cmd := exec.Command("./build", dir, target)
	cmd.Env = append(os.Environ(), "VERSION="+number)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", target, err, out)
	}
	return dir
}

// nothingMounted looks for what a build has left mounted: nobody could remove the
// checkout.
func nothingMounted(t *testing.T) {
	t.Helper()
	below, err := filepath.Abs("../../.cache/images")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(read(t, "/proc/self/mountinfo")) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, below) {
			t.Errorf("%s is mounted still", at)
		}
	}
}

// The slim image holds our programs and certificates, and is small.
func testSlim(t *testing.T, slim image) {
	var size int64
	var files []string
	err := filepath.WalkDir(slim.rootfs, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		size += info.Size()
		files = append(files, strings.TrimPrefix(path, slim.rootfs))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "/etc/ssl/certs/ca-certificates.crt /opt/resource/check /opt/resource/in /opt/resource/nixos-closure /opt/resource/out"
	if got := strings.Join(files, " "); got != want {
		t.Errorf("it holds %s, want %s", got, want)
	}
	for file, claim := range map[string]string{"../../README.md": "our programs, %.0f MB, and CA", "../examples/gated.yml": "the image without Nix: %.0f MB in place of"} {
		if claim = fmt.Sprintf(claim, float64(size)/1e6); !strings.Contains(read(t, file), claim) {
			t.Errorf("%s doesn't say %q", file, claim)
		}
	}
	certificates := read(t, filepath.Join(slim.rootfs, "etc/ssl/certs/ca-certificates.crt"))
	if n := strings.Count(certificates, "-----BEGIN CERTIFICATE-----"); n < 100 {
		t.Errorf("it holds %d certificates, want those of the world", n)
	}
	if !bytes.Equal([]byte(read(t, filepath.Join(slim.rootfs, "opt/resource/nixos-closure"))), build(t, "../..", number)) {
		t.Error("its program isn't the one that this machine makes of the same sources")
	}

	c := start(t, slim, slim.env, &gate{})
	if out, said, err := c.exec("", nil, "/opt/resource/nixos-closure", "--version"); err != nil || out != "nixos-closure "+number+"\n" {
		t.Errorf("--version: %q (%v)\n%s", out, err, said)
	}
	// The container is what it should be.
	if out, _, err := c.exec("", nil, "/tmp/busybox", "cat", "/proc/self/uid_map"); err != nil || strings.Join(strings.Fields(out), " ") != "0 4294967294 1 1 1 4294967293" {
		t.Errorf("the container's users are %q (%v)", out, err)
	}
	if _, _, err := c.exec("", nil, "/tmp/busybox", "mount", "-t", "tmpfs", "none", "/tmp"); err == nil {
		t.Error("the container is privileged: it may mount")
	}
}

type version struct {
	Generation string `json:"generation"`
	Path       string `json:"path"`
}

// A story is a cache, and those who put to it and get from it, each in a
// container of its own.
type story struct {
	t      *testing.T
	cache  *gate
	key    nixtest.Key
	source map[string]any
}

// with is a source for a pointer.
func (s *story) with(pointer, key string, value any) map[string]any {
	source := map[string]any{"pointer": pointer, key: value}
	for name, value := range s.source {
		source[name] = value
	}
	return source
}

func (s *story) run(of image, env []string, program, dir string, request map[string]any, mounts ...mount) (stdout, stderr string, err error) {
	s.t.Helper()
	stdin, err := json.Marshal(request)
	if err != nil {
		s.t.Fatal(err)
	}
	c := start(s.t, of, env, s.cache, mounts...)
	return c.exec(string(stdin), []string{"BUILD_ID=4711", "BUILD_TEAM_NAME=main", "BUILD_PIPELINE_NAME=web", "BUILD_JOB_NAME=build", "BUILD_NAME=1", "ATC_EXTERNAL_URL=https://ci.example.org"},
		"/opt/resource/"+program, dir)
}

// answer is run, decoded.
func (s *story) answer(value any, of image, env []string, program, dir string, request map[string]any, mounts ...mount) {
	s.t.Helper()
	stdout, stderr, err := s.run(of, env, program, dir, request, mounts...)
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", program, err, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), value); err != nil {
		s.t.Fatalf("%s printed %q: %v\n%s", program, stdout, err, stderr)
	}
	s.t.Logf("%s:\n%s", program, stderr)
}

func (s *story) put(of image, env []string, pointer string, params map[string]any, sources string) version {
	s.t.Helper()
	var mounts []mount // each input is one of its own
	entries, err := os.ReadDir(sources)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, entry := range entries {
		mounts = append(mounts, mount{filepath.Join(sources, entry.Name()), "/tmp/build/put/" + entry.Name()})
	}
	var answer struct{ Version version }
	s.answer(&answer, of, env, "out", "/tmp/build/put", map[string]any{"source": s.with(pointer, "signing_key", s.key.Secret), "params": params}, mounts...)
	return answer.Version
}

func (s *story) check(of image, pointer string, given version) (versions []version) {
	s.t.Helper()
	s.answer(&versions, of, of.env, "check", "", map[string]any{"source": s.with(pointer, "trusted_public_keys", s.key.Public), "version": given})
	return versions
}

// get is a get, and where the worker has what it left: a mount of its own in the
// container.
func (s *story) get(of image, pointer string, v version, params map[string]any) string {
	s.t.Helper()
	destination := tempDir(s.t)
	if err := os.Chown(destination, root, root); err != nil {
		s.t.Fatal(err)
	}
	var answer struct{ Version version }
	request := map[string]any{"source": s.with(pointer, "trusted_public_keys", s.key.Public), "version": v, "params": params}
	s.answer(&answer, of, of.env, "in", "/tmp/build/get", request, mount{destination, "/tmp/build/get"})
	if answer.Version != v {
		s.t.Errorf("in: got %v, want %v", answer.Version, v)
	}
	if got := strings.TrimSpace(read(s.t, filepath.Join(destination, "path"))); got != v.Path {
		s.t.Errorf("in left %s, want %s", got, v.Path)
	}
	if params == nil {
		if _, err := os.Stat(filepath.Join(destination, "rootfs", v.Path, "bin/switch-to-configuration")); err != nil {
			s.t.Errorf("in left no system: %v", err)
		}
		if _, err := os.Stat(filepath.Join(destination, "metadata.json")); err != nil {
			s.t.Errorf("in left no image for a task: %v", err)
		}
	}
	return destination
}

// parent is a directory in which another has a name, as an input of a put.
func parent(t *testing.T, name, dir string) string {
	t.Helper()
	sources := tempDir(t)
	if out, err := exec.Command("cp", "-a", dir, filepath.Join(sources, name)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return sources
}
