package ci_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// host.yml says what it costs to look for new generations of fifty hosts once a
// minute; here that is computed, from a pointer such as builds make it.
func TestCostOfPolling(t *testing.T) {
	const (
		hosts    = 50
		perGET   = 0.40 / 1e6 // dollars: a request for an object, at S3's price for its standard class
		perGB    = 0.09       // dollars: out of Amazon
		requests = hosts * 60 * 24
		month    = requests * 30
	)
	size := objectSize(t)
	gigabytes := math.Ceil(float64(size)*month/1e9/10) * 10
	for _, claim := range []string{
		fmt.Sprintf("%d,%03d GET requests a day", requests/1000, requests%1000),
		fmt.Sprintf("%.1f million a month", month/1e6),
		fmt.Sprintf("$%.2f a month", month*perGET),
		fmt.Sprintf("some %.0f kB", float64(size)/1e3),
		fmt.Sprintf("%.0f GB a month", gigabytes),
		fmt.Sprintf("about $%.0f", math.Round(gigabytes*perGB)),
	} {
		if !strings.Contains(strings.Join(strings.Fields(strings.ReplaceAll(string(read(t, "examples/host.yml")), "\n#", " ")), " "), claim) {
			t.Errorf("examples/host.yml doesn't say %q", claim)
		}
	}
}

// objectSize is that of a pointer with as many generations as it keeps, in bytes.
func objectSize(t *testing.T) int64 {
	t.Helper()
	ctx, store := context.Background(), blob.NewMemory()
	key := nixtest.NewKey(t, "cache.example.org-1")
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
		_, err = p.Append(ctx, pointer.Proposal{
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
	object, err := store.Get(ctx, "pointers/web-1.json", blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return object.Size
}
