package ci_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// host.yml says what it costs to look for new generations of fifty hosts once a
// minute. Here that is measured: by fifty checks of a pointer in a bucket that is
// full of generations such as builds make them.
func TestCostOfPolling(t *testing.T) {
	const (
		hosts  = 50
		perGET = 0.40 / 1e6 // dollars: a request for an object, at S3's price for its standard class
		perGB  = 0.09       // dollars: out of Amazon
		month  = 60 * 24 * 30
	)
	server := s3test.Versitygw(t)
	bucket := server.Bucket(t)
	behind, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	counter := &counter{next: httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(behind)
		r.Out.Host = r.In.Host // it is signed
	}}}
	front := httptest.NewServer(counter)
	defer front.Close()
	store, err := blob.Open(t.Context(), server.Cache(bucket), server.Config())
	if err != nil {
		t.Fatal(err)
	}
	key := nixtest.NewKey(t, "cache.example.org-1")
	fill(t, store, key)
	check := filepath.Join(t.TempDir(), "check")
	if err := nixtest.BuildPrograms(check, "", "../cmd/check"); err != nil {
		t.Fatal(err)
	}
	request, err := json.Marshal(map[string]any{"version": nil, "source": map[string]any{
		"cache": s3test.CacheAt(front.URL, bucket).String(), "access_key_id": server.AccessKeyID, "secret_access_key": server.SecretAccessKey,
		"pointer": "web-1", "trusted_public_keys": key.Public,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for range hosts {
		cmd := exec.Command(check)
		cmd.Stdin, cmd.Env = bytes.NewReader(request), []string{}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}

	front.Close() // when the last request has been counted, too
	minute := counter.requests
	gigabytes := math.Ceil(float64(counter.bytes)*month/1e9/10) * 10
	t.Logf("a minute: %d requests, %d bytes", counter.requests, counter.bytes)
	for _, claim := range []string{
		fmt.Sprintf("%d,%03d GET requests a day", minute*60*24/1000, minute*60*24%1000),
		fmt.Sprintf("%.1f million a month", float64(minute)*month/1e6),
		fmt.Sprintf("$%.2f a month", float64(minute)*month*perGET),
		fmt.Sprintf("some %.0f kB", float64(counter.bytes)/hosts/1e3),
		fmt.Sprintf("%.0f GB a month", gigabytes),
		fmt.Sprintf("about $%.0f", math.Round(gigabytes*perGB)),
	} {
		if !strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(string(read(t, "examples/host.yml")), "\n#", " ")), " "), claim) {
			t.Errorf("examples/host.yml doesn't say %q", claim)
		}
	}
}

// A counter counts what a server is asked for, and answers.
type counter struct {
	next httputil.ReverseProxy

	mu              sync.Mutex
	requests, bytes int64
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	counted := &countedResponse{ResponseWriter: w}
	c.next.ServeHTTP(counted, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	c.bytes += counted.bytes
}

type countedResponse struct {
	http.ResponseWriter
	bytes int64
}

func (c *countedResponse) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return c.ResponseWriter.Write(p)
}

// fill puts as many generations into the pointer of web-1 as it keeps.
func fill(t *testing.T, store blob.Store, key nixtest.Key) {
	t.Helper()
	secret, err := nix.ParseSecretKey(key.Secret)
	if err != nil {
		t.Fatal(err)
	}
	p := pointer.New(store, pointer.Config{
		Name: "web-1", PublicKeys: nix.Keys{secret.Public()}, RequireSigs: true, SigningKeys: []nix.SecretKey{secret},
	})
	for i := range pointer.Keep {
		path, err := nix.ParseStorePath(fmt.Sprintf("/nix/store/%032d-nixos-system-web-1-25.05.20250601.abcdef", i))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Append(t.Context(), pointer.Proposal{
			Path: path, System: "x86_64-linux", NarHash: nix.Hash{byte(i + 1)},
			Details: pointer.Details{
				Provenance: pointer.Provenance{Team: "main", Pipeline: "fleet", Job: "build", Build: "1234", URL: "https://ci.example.org/builds/1234567"},
				Revision:   strings.Repeat("a", 40),
				Changes:    "12 packages changed, 1 added: nginx 1.26.2 → 1.26.3, +12.4 KiB",
				Sizes:      pointer.Sizes{Paths: 1234, NarSize: 1 << 31},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
