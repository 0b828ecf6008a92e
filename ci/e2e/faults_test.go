package e2e_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/faultproxy"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A storm is a rig whose programs reach their bucket through a proxy that plays
// faults. All that they say and leave behind is searched for secrets.
type storm struct {
	*rig
	proxy     *faultproxy.Proxy
	direct    bucket
	witness   *witness
	verified  map[string]bool // the paths that stock Nix has found whole
	impatient bool            // the programs are those of package impatient
}

func newStorm(t *testing.T, server *s3test.Server, n *nixtest.Nix) *storm {
	t.Helper()
	direct := newBucket(t, server)
	through := direct
	proxy := faultproxy.New(t, server.URL)
	through.endpoint = proxy.URL
	s := &storm{rig: newRig(t, n, through), proxy: proxy, direct: direct, verified: map[string]bool{}, impatient: true}
	s.witness = newWitness(s.rig)
	return s
}

// next is a system of which nothing is in the cache yet, and one path of which
// is uploaded in parts.
func (s *storm) next(t *testing.T) nix.StorePath {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(s.sources, "config", "busybox", "busybox"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	const parts = 9 << 20
	if info, err := file.Stat(); err == nil && info.Size() < parts {
		noise := make([]byte, parts) // which can't be compressed
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		_, err = file.Write(noise)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return s.nextSystem(t, true)
}

// fetch gets a version into a new directory, in a format, from the cache of a
// source.
func (s *storm) fetch(t *testing.T, source map[string]any, v version, format string) error {
	t.Helper()
	dir := nixtest.TempDir(t)
	request := map[string]any{"source": source, "version": v, "params": map[string]any{"format": format}}
	if _, err := run[put](t, s, call("in", dir, nil, request)); err != nil {
		left, readErr := os.ReadDir(dir)
		if readErr != nil || len(left) > 0 {
			t.Errorf("a get that failed left %v (%v)", left, readErr)
		}
		return err
	}
	root, err := nix.ParseStorePath(v.Path)
	if err != nil {
		t.Fatal(err)
	}
	formats[format].judge(t, s.rig, dir, s.store.Closure(t, root), root)
	return nil
}

// overHTTP is a follower's source that reads the bucket as a web server.
func (s *storm) overHTTP() map[string]any {
	return map[string]any{
		"cache":               s.proxy.URL + "/" + s.direct.name,
		"pointer":             "web-1",
		"trusted_public_keys": []string{s.key.Public},
	}
}

// run is answer for a program that is watched, and must end within its time: it
// succeeds, or fails with an error for people.
func run[T any](t *testing.T, s *storm, p *program) (T, error) {
	t.Helper()
	limit := 15 * time.Minute
	if s.impatient {
		limit = 3 * time.Minute
		p.Path = filepath.Join(programs(), "impatient", filepath.Base(p.Path))
	}
	home := t.TempDir()
	p.Env = append(p.Env, "HOME="+home, "TMPDIR="+home)
	hung := time.AfterFunc(limit, func() { p.Process.Signal(syscall.SIGQUIT) }) // so that it says where it is
	defer hung.Stop()
	p.watched = true
	value, err := answer[T](p)
	if errors.Is(err, errLeak) {
		t.Error(err)
	}
	places := []string{home}
	if dir := p.Args[1]; dir != "" {
		places = append(places, dir)
	}
	if leak := p.secretBelow(places...); leak != nil {
		t.Error(leak)
	}
	if err != nil && !(strings.Contains(err.Error(), "exit status 1\n") && strings.Contains(err.Error(), "error: ")) {
		t.Errorf("not an error for people: %v", err)
	}
	return value, err
}

// judge holds the cache against the promises, has stock Nix verify every path
// that it lists, with all that it references, and looks for secrets.
func (s *storm) judge(t *testing.T) {
	t.Helper()
	s.witness.cache = s.direct
	if err := s.witness.look(); err != nil {
		t.Error(err)
	}
	var paths []string
	for _, said := range s.witness.seen {
		line, _, _ := strings.Cut(said, "\n")
		if path := strings.TrimPrefix(line, "StorePath: "); !s.verified[path] {
			paths = append(paths, path)
			s.verified[path] = true
		}
	}
	if len(paths) > 0 {
		url := s.direct.substituters(s.nix)[len(s.verified)%2]
		s.nix.NewStore(t).Run(t, "nix", append([]string{"store", "verify", "--store", url, "--recursive", "--trusted-public-keys", s.key.Public}, paths...)...)
	}
	objects, err := s.direct.list("")
	if err != nil {
		t.Fatal(err)
	}
	p := call("out", "", nil, map[string]any{"source": s.publisher()})
	for key := range objects {
		if strings.HasPrefix(key, "nar/") {
			continue // the witness knows what those hold
		}
		text, err := s.direct.read(key)
		if err != nil {
			t.Fatal(err)
		}
		if leak := p.secretIn(key + string(text)); leak != nil {
			t.Errorf("%s has %v", key, leak)
		}
	}
}

// Each fault, played once on each class of request of each program, costs a
// retry and nothing else.
func TestFaults(t *testing.T) {
	t.Parallel()
	server, n := s3test.Versitygw(t), nixtest.Current(t)
	for _, fault := range faultproxy.Faults {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			s := newStorm(t, server, n)
			path := s.next(t)

			s.proxy.PlayOnEach(fault)
			v := must[put](t)(run[put](t, s, s.out(path))).Version
			wantOperations(t, s.proxy, "out", "GetObject", "HeadObject", "ListObjectsV2", "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "DeleteObject")
			s.judge(t)

			s.proxy.PlayOnEach(fault)
			if diff := cmp.Diff([]version{v}, must[[]version](t)(run[[]version](t, s, s.check(nil)))); diff != "" {
				t.Errorf("check (-want +got):\n%s", diff)
			}
			wantOperations(t, s.proxy, "check", "GetObject")

			for format, source := range map[string]map[string]any{"rootfs": s.follower(), "archive": s.overHTTP()} {
				s.proxy.PlayOnEach(fault)
				if err := s.fetch(t, source, v, format); err != nil {
					t.Errorf("%s: %v", format, err)
				}
				wantOperations(t, s.proxy, "in", "GetObject")
			}
		})
	}
}

// wantOperations tells whether a program asked for these, and for each again
// because of a fault.
func wantOperations(t *testing.T, proxy *faultproxy.Proxy, program string, want ...string) {
	t.Helper()
	times := map[string]int{}
	for _, operation := range proxy.Operations() {
		times[operation]++
	}
	for _, operation := range want {
		if times[operation] < 2 {
			t.Errorf("%s asked %d times for %s", program, times[operation], operation)
		}
		delete(times, operation)
	}
	if len(times) > 0 {
		t.Errorf("%s asked for %v, too", program, times)
	}
}

// While any fault may happen to any request, each run ends whole or with a
// clear error, and the cache stays valid; when the storm is over, running it
// again finishes it.
//
// FAULT_SECONDS makes the storm longer and lets the programs be as patient as
// they are, every other time; FAULT_SEED repeats one, as far as the scheduler
// does.
func TestFaultsAtRandom(t *testing.T) {
	t.Parallel()
	duration, long := 15*time.Second, false
	if seconds, err := strconv.Atoi(os.Getenv("FAULT_SECONDS")); err == nil {
		duration, long = time.Duration(seconds)*time.Second, true
	}
	seed, err := strconv.ParseUint(os.Getenv("FAULT_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("FAULT_SEED=%d", seed)

	s := newStorm(t, s3test.Versitygw(t), nixtest.Current(t))
	var outcomes []string
	note := func(what string, probability float64, err error) {
		outcome := fmt.Sprintf("%s at %v: whole", what, probability)
		if err != nil {
			outcome = fmt.Sprintf("%s at %v: %v", what, probability, err)
		}
		outcomes = append(outcomes, outcome)
	}
	begin := time.Now()
	for round := uint64(0); round == 0 || time.Since(begin) < duration && !t.Failed(); round++ {
		probability := []float64{0.1, 0.8, 0.02}[round%3]
		if s.impatient = !long || round%2 == 0; !s.impatient {
			probability = 0.02 // a stall takes a minute
		}
		path := s.next(t)
		s.proxy.PlayAtRandom(seed+round, probability)
		_, err := run[put](t, s, s.out(path))
		note("out", probability, err)
		s.judge(t)

		versions, err := run[[]version](t, s, s.check(nil))
		note("check", probability, err)
		if err == nil && len(versions) > 0 {
			for name := range formats {
				source, by := s.follower(), "s3"
				if len(name)%2 == 0 {
					source, by = s.overHTTP(), "http"
				}
				note(name+" by "+by, probability, s.fetch(t, source, versions[0], name))
			}
		}

		s.proxy.Play("", "", 0)
		v := must[put](t)(run[put](t, s, s.out(path))).Version
		if want := (version{strconv.FormatUint(round+1, 10), path.String()}); v != want {
			t.Errorf("run again, out answers %v, want %v", v, want)
		}
		s.judge(t)
		s.proxy.Operations()
	}
	slices.Sort(outcomes)
	t.Logf("%s:\n%s", time.Since(begin).Round(time.Second), strings.Join(outcomes, "\n"))
	for _, url := range s.direct.substituters(s.nix) {
		realise(t, url, s.key, s.nix, plain(t, s.rig))
	}
}
