package e2e_test

import (
	"crypto/ed25519"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A put that builds, in a store that is empty as in each container of a put,
// takes from a bucket that only it can read what is there, and builds the rest;
// through no proxy, and without a secret in any of its processes or files.
func TestBuildTakesFromTheCache(t *testing.T) {
	t.Parallel()
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		t.Parallel()
		server := s3test.Versitygw(t)
		r := newRig(t, n, bucket{server, server.Bucket(t), server.URL}) // which nobody else may read
		source := r.publisher()
		source["access_tokens"] = map[string]string{"github.com": "t0ken-of-" + rot13("github")}
		source["netrc"] = "machine example.org login me password " + rot13("password")
		source["ssh_key"] = sshKey(t)
		proxy := httptest.NewServer(nil) // has nothing
		defer proxy.Close()

		build := func() (version, string) {
			t.Helper()
			r.store = n.NewStore(t)
			env, tmp := r.store.Env(), t.TempDir()
			env = append(env, "TMPDIR="+tmp, "http_proxy="+proxy.URL, "no_proxy=example.org")
			cmd := call("out", r.sources, env, map[string]any{
				"source": source, "params": map[string]any{"file": "config/default.nix", "attribute": "web-1"},
			})
			cmd.watched = true
			said := new(strings.Builder)
			got, err := answerSaying[put](cmd, said)
			if err != nil {
				t.Fatal(err)
			}
			left, err := filepath.Glob(filepath.Join(tmp, "nixos-closure*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if leak := cmd.secretBelow(tmp, r.store.Dir, filepath.Dir(r.sources)); leak != nil {
				t.Error(leak)
			}
			return got.Version, said.String()
		}

		first, log := build()
		if !strings.Contains(log, "linux-6.12.30.drv'...") {
			t.Errorf("the first put has built nothing:\n%s", log)
		}
		if err := os.WriteFile(filepath.Join(r.sources, "config", "motd"), []byte("the next day\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		second, log := build()
		if second.Path == first.Path {
			t.Error("nothing has changed")
		}
		for what, want := range map[string]bool{
			"-linux-6.12.30' from 's3://": true, "-linux-6.12.30.drv'...": false, "-etc.drv'...": true, "http://127.0.0.1": false,
		} {
			if strings.Contains(log, what) != want {
				t.Errorf("the log has %q: %v, want %v\n%s", what, !want, want, log)
			}
		}
	})
}

// rot13 makes a secret that stands nowhere else.
func rot13(s string) string {
	return strings.Map(func(r rune) rune { return 'a' + (r-'a'+13)%26 }, s)
}

func sshKey(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

// A put whose source has an empty list of substituters asks none that the
// image's nix.conf has: it may be one without a way out.
func TestNoSubstituters(t *testing.T) {
	t.Parallel()
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		t.Parallel()
		var asked atomic.Int64
		image := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			http.NotFound(w, r)
		}))
		defer image.Close()
		for _, test := range []struct {
			name         string
			substituters any
			asks         bool
		}{
			{"none said", nil, true},
			{"none wanted", []string{}, false},
			{"one of its own", []string{"file://" + t.TempDir()}, true},
		} {
			r := newRig(t, n, directory(t.TempDir()))
			r.store.Configure(t, "substituters = "+image.URL+"\nextra-substituters = "+image.URL+"/another")
			source := r.publisher()
			source["substituters"] = test.substituters
			asked.Store(0)
			var said strings.Builder
			_, err := answerSaying[put](call("out", r.sources, r.store.Env(), map[string]any{
				"source": source, "params": map[string]any{"file": "config/default.nix", "attribute": "web-1"},
			}), &said)
			if err != nil {
				t.Fatal(err)
			}
			if asks := asked.Load() > 0; asks != test.asks || asks != strings.Contains(said.String(), image.URL) {
				t.Errorf("%s: the image's substituters were asked: %v\n%s", test.name, asks, &said)
			}
		}
	})
}
