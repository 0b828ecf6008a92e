package nixcmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// What Nix is told adds to what it knows, and the user has the last word.
func TestSettings(t *testing.T) { nixtest.Each(t, testSettings) }

func testSettings(t *testing.T, n *nixtest.Nix) {
	theirs := n.NewStore(t)
	theirs.Configure(t, "substituters = http://machine.example.org\ntrusted-public-keys =\ncores = 1\nkeep-going = true\nmax-jobs = 1")
	theirs.Setenv(t)
	users := filepath.Join(t.TempDir(), "nix.conf")
	if err := os.WriteFile(users, []byte("cores = 2\nmax-jobs = 2\nkeep-failed = true"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NIX_USER_CONF_FILES", users)
	t.Setenv("NIX_CONFIG", "cores = 3\nmax-jobs = 3")
	key, err := nix.ParsePublicKey(nixtest.NewKey(t, "ours-1").Public)
	if err != nil {
		t.Fatal(err)
	}
	long := "# " + strings.Repeat("more than a pipe holds ", 10000) + "\n"
	store, err := Open(t.Context(), Options{Settings: Settings{
		Substituters: []string{"http://127.0.0.1:1/0", "http://127.0.0.1:1/1?trusted=true"}, PublicKeys: nix.Keys{key},
		Builders: "ssh-ng://a\nssh-ng://b", Lines: long + "cores = 4",
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, why := range []purpose{toAsk, toBuild, toEvaluate, toEvaluateFreely} {
		var out bytes.Buffer
		args := []string{"--extra-experimental-features", "nix-command", "config", "show", "--json"}
		if strings.HasPrefix(n.Version, "2.8.") {
			args = slices.Replace(args, 2, 4, "show-config")
		}
		if err := store.runTo(t.Context(), why, &out, nil, "nix", args...); err != nil {
			t.Fatal(err)
		}
		var got map[string]struct{ Value any }
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"substituters":        "[http://machine.example.org http://127.0.0.1:1/0 http://127.0.0.1:1/1?trusted=true]",
			"trusted-public-keys": "[" + key.String() + "]",
			"builders":            "ssh-ng://a ; ssh-ng://b",
			"cores":               "4", // our user
			"max-jobs":            "3", // NIX_CONFIG
			"keep-failed":         "true",
			"keep-going":          "true",
		} {
			value := got[name].Value
			if list, ok := value.([]any); ok && name == "trusted-public-keys" && len(list) > 1 {
				value = list[len(list)-1:]
			}
			if text := fmt.Sprint(value); text != want {
				t.Errorf("%s is %s, want %s", name, text, want)
			}
		}
	}
}

func TestLoopbackNeedsNoProxy(t *testing.T) {
	t.Setenv("no_proxy", "")
	t.Setenv("NO_PROXY", "example.org")
	s := Settings{Substituters: []string{"http://127.0.0.1:1/0", "http://127.0.0.1:1/1", "https://cache.example.org"}}
	if got, want := s.direct(), []string{"no_proxy=example.org,127.0.0.1", "NO_PROXY=example.org,127.0.0.1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	s.Substituters = s.Substituters[2:]
	if got := s.direct(); got != nil {
		t.Errorf("without one on this machine: got %q", got)
	}
}

func TestHasIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "map")
	if err := os.WriteFile(file, []byte("         0 4294967294          1\n         1          1 4294967293\n"), 0o644); err != nil { // as Concourse has it
		t.Fatal(err)
	}
	for _, test := range []struct {
		first, count int64
		want         bool
	}{{0, 1, true}, {1, 100, true}, {30000, 33, true}, {0, 2, false}, {4294967293, 1, true}, {4294967294, 1, false}, {0, 1<<32 - 1, false}} {
		if got, err := hasIDs(file, test.first, test.count); got != test.want || err != nil {
			t.Errorf("%d from %d: got %v, %v", test.count, test.first, got, err)
		}
	}
}
