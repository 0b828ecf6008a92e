package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// Signatures are a set, which one Nix sorts in another way than the next.
var comparePaths = cmp.Options{
	cmp.AllowUnexported(nix.StorePath{}, nix.ContentAddress{}),
	cmpopts.EquateEmpty(),
	cmpopts.SortSlices(func(a, b nix.Signature) bool { return a.String() < b.String() }),
}

// open opens the store that this process's environment leads to.
func open(t *testing.T, log io.Writer) *Store {
	t.Helper()
	store, err := Open(t.Context(), Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// write writes an expression beside the sample's.
func write(t *testing.T, sources, text string) (file string) {
	t.Helper()
	file = filepath.Join(sources, "config", "test.nix")
	if err := os.WriteFile(file, []byte("with import ./lib.nix;\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestOpenWithoutNix(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), Options{})
	if err == nil || len(hint.Of(err)) == 0 {
		t.Errorf("got error %v with hints %q, want both", err, hint.Of(err))
	}
}

// Whatever Nix builds, we know of it what Nix knows.
func TestClosureIsNixs(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		sources := nixtest.Sample(t)
		pair, other := nixtest.NewKey(t, "test-1"), nixtest.NewKey(t, "test-2")
		for _, root := range []nix.StorePath{
			store.Build(t, filepath.Join(sources, "config/default.nix"), "web-1"),
			store.Build(t, filepath.Join(sources, "config/edge-cases.nix"), "all"),
		} {
			nixtest.Sign(t, store, root, pair, other)
			store.Setenv(t)
			got, err := open(t, nil).Closure(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(store.Closure(t, root), got, comparePaths); diff != "" {
				t.Errorf("closure of %s (-want +got):\n%s", root, diff)
			}
		}
	})
}

// A path that isn't there is an error at once, with advice, and not a question
// to the substituters.
func TestClosureOfInvalidPath(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		substituter, err := net.Listen("tcp", "localhost:0")
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan bool, 1)
		go func() {
			conn, err := substituter.Accept()
			if err == nil {
				conn.Close()
			}
			asked <- err == nil
		}()
		theirs := n.NewStore(t)
		theirs.Configure(t, "substituters = http://"+substituter.Addr().String())
		theirs.Setenv(t)
		path, err := nix.ParseStorePath("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60")
		if err != nil {
			t.Fatal(err)
		}
		expecting, err := Open(t.Context(), Options{Expect: path})
		if err != nil {
			t.Fatal(err)
		}
		for _, store := range []*Store{open(t, nil), expecting} {
			_, err = store.Closure(t.Context(), path)
			if err == nil || !strings.Contains(err.Error(), path.String()+" is not valid") || len(hint.Of(err)) == 0 {
				t.Errorf("got error %v with hints %q, want one that names the path, and a hint", err, hint.Of(err))
			}
		}
		substituter.Close()
		if <-asked {
			t.Error("the substituter was asked")
		}
	})
}

// Nix is asked for an expected closure once, early; and again when it is asked for
// again, for it may have come since.
func TestExpectedClosure(t *testing.T) {
	theirs := nixtest.Current(t).NewStore(t)
	theirs.Setenv(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	add := func() nix.StorePath {
		path, err := nix.ParseStorePath(theirs.Run(t, "nix-store", "--add", file))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := add()
	theirs.Run(t, "nix-store", "--delete", path.String())
	store, err := Open(t.Context(), Options{Expect: path})
	if err != nil {
		t.Fatal(err)
	}
	<-store.expected.there
	add()
	if _, err := store.Closure(t.Context(), path); err == nil {
		t.Error("it was not asked for when the store was opened")
	}
	if infos, err := store.Closure(t.Context(), path); err != nil || len(infos) != 1 {
		t.Errorf("asked again: %v, %v", infos, err)
	}
}

// All ways in which Nix has ever written the same thing, and what must not pass.
func TestParsePathInfos(t *testing.T) {
	const (
		a, b  = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a", "/nix/store/10bgd045z0d4icpbc2yyz4gx48ak44la-b"
		nix32 = "sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s"
		sri   = "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
		hex   = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
		sig   = "k-1:0000000000000000000000000000000000000000000000000000000000000000000000000000000000000A=="
	)
	hash, err := nix.ParseHash(nix32)
	if err != nil {
		t.Fatal(err)
	}
	path := func(s string) nix.StorePath {
		p, err := nix.ParseStorePath(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	signature, err := nix.ParseSignature(sig)
	if err != nil {
		t.Fatal(err)
	}
	address, err := nix.ParseContentAddress("text:" + nix32)
	if err != nil {
		t.Fatal(err)
	}
	full := []nix.PathInfo{{
		Path: path(a), NarHash: hash, NarSize: 120, References: []nix.StorePath{path(a), path(b)},
		Deriver: path(b + ".drv"), CA: address, Signatures: []nix.Signature{signature},
	}}
	bare := []nix.PathInfo{{Path: path(a), NarHash: hash, NarSize: 120}}

	for _, test := range []struct {
		name, json string
		want       []nix.PathInfo
		err        string
	}{
		{"2.8", `[{"path":"` + a + `","narHash":"` + sri + `","narSize":120,"references":["` + b + `","` + a + `"],"deriver":"` + b + `.drv","ca":"text:` + nix32 + `","signatures":["` + sig + `"],"registrationTime":1}]`, full, ""},
		{"2.8, bare", `[{"path":"` + a + `","narHash":"` + nix32 + `","narSize":120,"references":[]}]`, bare, ""},
		{"2.19", `{"` + a + `":{"narHash":"` + hex + `","narSize":120,"references":["` + a + `","` + b + `"],"deriver":"` + b + `.drv","ca":"text:` + nix32 + `","signatures":["` + sig + `"]}}`, full, ""},
		{"2.34, bare", `{"` + a + `":{"ca":null,"deriver":null,"narHash":"` + sri + `","narSize":120,"references":[],"registrationTime":1,"signatures":[],"storeDir":"/nix/store","ultimate":false,"version":1}}`, bare, ""},
		{"several, sorted", `{"` + b + `":{"narHash":"` + sri + `","narSize":1},"` + a + `":{"narHash":"` + sri + `","narSize":120}}`, []nix.PathInfo{bare[0], {Path: path(b), NarHash: hash, NarSize: 1}}, ""},
		{"2.8, invalid", `[{"path":"` + a + `","valid":false}]`, nil, a + " is not valid"},
		{"2.34, invalid", `{"` + a + `":null}`, nil, a + " is not valid"},
		{"other store directory", `{"/gnu/store/00bgd045z0d4icpbc2yyz4gx48ak44la-a":{"narHash":"` + sri + `","narSize":120}}`, nil, "not in /nix/store"},
		{"size unknown", `{"` + a + `":{"narHash":"` + sri + `","narSize":0}}`, nil, "doesn't know"},
		{"hash unknown", `{"` + a + `":{"narSize":120}}`, nil, "doesn't know"},
		{"hash of another kind", `{"` + a + `":{"narHash":"md5:00000000000000000000000000000000","narSize":120}}`, nil, "not a SHA-256"},
		{"format 2", `{"info":{},"storeDir":"/nix/store","version":2}`, nil, "what nix path-info printed"},
		{"bad signature", `{"` + a + `":{"narHash":"` + sri + `","narSize":120,"signatures":["x"]}}`, nil, "a signature of " + a},
		{"no JSON", `warning`, nil, "what nix path-info printed"},
		{"a list of nothing", `[null]`, nil, "not a store path"},
		{"truncated", `[{"path":`, nil, "what nix path-info printed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parsePathInfos([]byte(test.json))
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("got error %v, want %q", err, test.err)
			}
			if diff := cmp.Diff(test.want, got, comparePaths); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDumpNAR(t *testing.T) {
	theirs := nixtest.Current(t).NewStore(t)
	theirs.Setenv(t)
	path := theirs.Build(t, filepath.Join(nixtest.Sample(t), "config", "edge-cases.nix"), "shapes")
	want, err := exec.Command("nix-store", "--dump", theirs.RealPath(path)).Output()
	if err != nil {
		t.Fatal(err)
	}
	store := open(t, nil)
	var got bytes.Buffer
	if err := store.DumpNAR(t.Context(), path, &got); err != nil || !bytes.Equal(want, got.Bytes()) {
		t.Errorf("got another NAR than Nix's, error %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.DumpNAR(ctx, path, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want context.Canceled", err)
	}
}

func TestRealStoreDir(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/home/u/data")
	t.Chdir("/usr")
	for setting, want := range map[string]string{
		"":                                 "/nix/store",
		"auto":                             "/nix/store",
		"daemon":                           "/nix/store",
		"local":                            "/nix/store",
		"unix:///run/nix.socket":           "/nix/store",
		"/mnt":                             "/mnt/nix/store",
		"/mnt/a b?trusted=1":               "/mnt/a b/nix/store",
		"./share":                          "/usr/share/nix/store",
		"local?root=/mnt":                  "/mnt/nix/store",
		"local?root=/mnt/a b":              "/mnt/a b/nix/store",
		"local://?root=/mnt/a%20b":         "/mnt/a b/nix/store",
		"local:///mnt/a%20b":               "/mnt/a b/nix/store",
		"local?store=/nix/store&real=/x/y": "/x/y",
		"unix:///run/nix.socket?root=/mnt": "/mnt/nix/store",
		"auto?root=/mnt":                   "/mnt/nix/store",

		"ssh-ng://builder":          "",
		"https://cache.example.org": "",
		"s3://bucket":               "",
		"dummy":                     "",
		"local?root=%zz":            "",
	} {
		if setting == "auto" || setting == "" {
			if machineHasNoStore() {
				want = "/home/u/data/nix/root/nix/store"
			}
		}
		got, err := realStoreDir(setting)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", setting, got, err, want)
		}
	}
}

// The same through Nix, which has its own ways of writing what it was told.
func TestOpenFindsFiles(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs := n.NewStore(t)
		theirs.Setenv(t)
		path := theirs.Build(t, filepath.Join(nixtest.Sample(t), "config", "edge-cases.nix"), "file")
		for _, remote := range []string{theirs.Dir, "local?root=" + theirs.Dir, "local?root=" + theirs.Dir + "&read-only=false"} {
			t.Setenv("NIX_REMOTE", remote)
			if got := open(t, nil).RealPath(path); got != theirs.RealPath(path) {
				t.Errorf("NIX_REMOTE=%s: got %s, want %s", remote, got, theirs.RealPath(path))
			}
		}
		t.Setenv("NIX_REMOTE", "https://cache.example.org")
		if _, err := Open(t.Context(), Options{}); err == nil || len(hint.Of(err)) == 0 {
			t.Errorf("got error %v with hints %q, want both", err, hint.Of(err))
		}
	})
}
