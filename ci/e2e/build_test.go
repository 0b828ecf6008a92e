package e2e_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/faultproxy"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A put of an unchanged flake, in a container with an empty store, builds
// nothing, and neither fetches nor sends a NAR, nor anything else. A change in one
// of 300 paths builds and sends that one and the three that depend on it; what
// they are built from comes from the cache.
func TestUnchangedFlake(t *testing.T) {
	t.Parallel()
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		t.Parallel()
		b := newBucket(t, s3test.Versitygw(t))
		proxy := faultproxy.New(t, b.server.URL)
		b.endpoint = proxy.URL
		r := newRig(t, n, b)
		config := filepath.Join(r.sources, "config")
		flake := "{ outputs = _: { host = import ./many.nix; }; }"
		if err := os.WriteFile(filepath.Join(config, "flake.nix"), []byte(flake), 0o644); err != nil {
			t.Fatal(err)
		}

		first, requests := r.putFlake(t, proxy)
		if len(first.built) != 39 || first.Version.Generation != "1" || uploads(requests) != 300 {
			t.Fatalf("the first put has built %d paths, sent %d NARs, and answered %+v", len(first.built), uploads(requests), first.Version)
		}

		r.store = n.NewStore(t)
		again, requests := r.putFlake(t, proxy)
		if len(again.built) > 0 || again.Version != first.Version {
			t.Errorf("putting it again has built %v, and answered %+v", again.built, again.Version)
		}
		for _, request := range requests {
			if !strings.HasPrefix(request, "GetObject ") && !strings.HasPrefix(request, "HeadObject ") || strings.Contains(request, "/nar/") {
				t.Errorf("putting it again asked for %s", request)
			}
		}
		if len(requests) > 4 {
			t.Errorf("putting it again took %d requests: %v", len(requests), requests)
		}
		if there := r.store.All(t); slices.ContainsFunc(there, func(i nix.PathInfo) bool { return i.Path.Name() == "path-0" }) {
			t.Errorf("putting it again has filled the store with %d paths", len(there))
		}

		r.store = n.NewStore(t)
		if err := os.WriteFile(filepath.Join(config, "motd"), []byte("another day"), 0o644); err != nil {
			t.Fatal(err)
		}
		changed, requests := r.putFlake(t, proxy)
		want := []string{"path-0", "path-299", "path-37", "path-4"}
		if slices.Sort(changed.built); !slices.Equal(changed.built, want) || changed.Version.Generation != "2" || uploads(requests) != len(want) {
			t.Errorf("a change has built %v, sent %d NARs, and answered %+v", changed.built, uploads(requests), changed.Version)
		}
	})
}

// A flakePut is what a put of a flake has answered, and the names of what it has
// built.
type flakePut struct {
	put
	built []string
}

// putFlake puts the attribute host of the flake config, and returns the requests
// that this has made through a proxy.
func (r *rig) putFlake(t *testing.T, proxy *faultproxy.Proxy) (flakePut, []string) {
	t.Helper()
	proxy.Requests()
	var stdout, stderr bytes.Buffer
	p := call("out", r.sources, r.store.Env(), map[string]any{
		"source": r.publisher(), "params": map[string]any{"flake": "config", "attribute": "host"},
	})
	p.Stdout, p.Stderr = &stdout, &stderr
	if err := p.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var result flakePut
	if err := json.Unmarshal(stdout.Bytes(), &result.put); err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^building '/nix/store/[a-z0-9]{32}-(.*)\.drv'`).FindAllStringSubmatch(stderr.String(), -1) {
		result.built = append(result.built, line[1])
	}
	return result, proxy.Requests()
}

// uploads counts the NARs that requests have sent.
func uploads(requests []string) (nars int) {
	for _, request := range requests {
		if strings.HasPrefix(request, "PutObject ") && strings.Contains(request, "/nar/") {
			nars++
		}
	}
	return nars
}
