package nixcmd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

func (s *sshServer) settings(n *nixtest.Nix) Settings {
	return Settings{
		Store:  "ssh-ng://nix@" + s.address + "?remote-program=" + url.QueryEscape(n.Program("nix-daemon")),
		SSHKey: s.userKey, KnownHosts: s.knownHosts,
	}
}

// What is evaluated here is built there, and read from there, without passing
// through this machine's store.
func TestRemoteStore(t *testing.T) { nixtest.Each(t, testRemoteStore) }

func testRemoteStore(t *testing.T, n *nixtest.Nix) {
	here, there, sources := n.NewStore(t), n.NewStore(t), nixtest.Sample(t)
	here.Setenv(t)
	server := newSSHServer(t, there.Env())
	var log bytes.Buffer
	store, err := Open(t.Context(), Options{Log: &log, Settings: server.settings(n)})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	d, err := store.Evaluate(t.Context(), Installable{File: filepath.Join(sources, "config", "default.nix"), Attribute: "web-1"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there
		paths, err := store.Realise(t.Context(), d)
		if err != nil {
			t.Fatalf("%v\n%s", err, &log)
		}
		if diff := cmp.Diff([]nix.StorePath{d.OutPath}, paths, comparePaths); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	if n := strings.Count(log.String(), "linux-6.12.30.drv'..."); n == 0 {
		t.Errorf("nothing says that it was built:\n%s", &log)
	}
	for _, info := range here.All(t) {
		if info.Deriver != (nix.StorePath{}) {
			t.Errorf("%s was built here", info.Path)
		}
	}

	server.commands()
	infos, err := store.Closure(t.Context(), d.OutPath)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(there.Closure(t, d.OutPath), infos, comparePaths); diff != "" {
		t.Errorf("the closure (-want +got)\n%s", diff)
	}
	group, groupCtx := errgroup.WithContext(t.Context())
	for range 10 {
		for _, info := range infos {
			group.Go(func() error {
				sum := sha256.New()
				if err := store.DumpNAR(groupCtx, info.Path, sum); err != nil {
					return err
				}
				if got := nix.SumHash(sum); got != info.NarHash {
					t.Errorf("the NAR of %s has hash %s, want %s", info.Path, got, info.NarHash)
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if opened := server.commands(); len(opened) > maxConnections {
		t.Errorf("%d NARs took %d connections", 10*len(infos), len(opened))
	}

	other := nix.StorePath{}
	if other, err = nix.ParseBaseName("00000000000000000000000000000000-nothing"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Closure(t.Context(), other); err == nil || !strings.Contains(err.Error(), "is not valid") {
		t.Errorf("of a path that isn't there: %v", err)
	}

	// A failure is that of a build here.
	file := write(t, sources, `build "bad" { } "echo the reason; exit 3"`)
	bad, err := store.Evaluate(t.Context(), Installable{File: file})
	if err != nil {
		t.Fatal(err)
	}
	failure := new(BuildError)
	if _, err := store.Realise(t.Context(), bad); !errors.As(err, &failure) || len(failure.Failed) != 1 || !slices.Contains(failure.Failed[0].LastLines, "the reason") {
		t.Errorf("a build that fails there: %v", err)
	}

	// Gone in the middle of a NAR.
	pr, pw := io.Pipe()
	largest := slices.MaxFunc(infos, func(a, b nix.PathInfo) int { return int(a.NarSize - b.NarSize) })
	done := make(chan error, 1)
	go func() {
		err := store.DumpNAR(t.Context(), largest.Path, pw)
		pw.CloseWithError(err)
		done <- err
	}()
	io.ReadFull(pr, make([]byte, 1000))
	server.hangUp()
	go io.Copy(io.Discard, pr)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "lost") && !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("of a machine that is gone: %v", err)
	}

	// Once it is back, so are we.
	if _, err := store.Closure(t.Context(), d.OutPath); err != nil {
		waitUntil(t, "the other connections are known to be lost, too", func() bool {
			_, err = store.Closure(t.Context(), d.OutPath)
			return err == nil
		})
	}

	// Gone in the middle of a build.
	marker := "marker-" + strconv.Itoa(os.Getpid()) + n.Version
	defer func() { // its machine is gone, and a builder lives on its own
		for _, pid := range processes(t, marker) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}()
	begun := &signalWriter{text: "begun", seen: make(chan struct{})}
	another, err := Open(t.Context(), Options{Log: begun, Settings: server.settings(n)})
	if err != nil {
		t.Fatal(err)
	}
	defer another.Close()
	endless, err := another.Evaluate(t.Context(), Installable{File: write(t, sources, `build "endless" { } "echo begun; : `+marker+`; sleep 1000; :"`)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		_, err := another.Realise(ctx, endless)
		done <- err
	}()
	select {
	case <-begun.seen:
		server.hangUp()
		err = <-done
	case err = <-done:
	}
	if err == nil || ctx.Err() != nil {
		t.Errorf("a build on a machine that is gone ends with %v, %v", err, ctx.Err())
	}
	if err := another.Close(); err != nil {
		t.Error(err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	waitUntil(t, "no ssh is left", func() bool { return len(processes(t, server.address[strings.Index(server.address, ":")+1:])) == 0 })
}

// Whatever keeps ssh from getting there is said at once.
func TestRemoteStoreRefuses(t *testing.T) {
	n := nixtest.Current(t)
	here, there := n.NewStore(t), n.NewStore(t)
	here.Setenv(t)
	server := newSSHServer(t, there.Env())
	stranger, _ := newSSHKey(t)
	good := server.settings(n)
	open := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(open, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, test := range []struct {
		name   string
		change func(*Settings)
		want   string
		advice string
	}{
		{"nobody is there", func(s *Settings) { s.Store = "ssh-ng://nix@" + closed.Addr().String() }, "can't be reached: ssh: connect to host 127.0.0.1", "is the machine up"},
		{"another machine", func(s *Settings) { s.KnownHosts = "example.org ssh-ed25519 AAAA" }, "Host key verification failed", "ssh_known_hosts"},
		{"another key", func(s *Settings) { s.SSHKey = stranger }, "Permission denied", "authorized_keys"},
		{"no Nix", func(s *Settings) { s.Store = "ssh-ng://nix@" + server.address + "?remote-program=no-such-daemon" }, "not found", "remote-program"},
		{"no daemon", func(s *Settings) { s.Store = "ssh-ng://nix@" + server.address + "?remote-program=cat" }, "cat: ", "is the machine up"},
		{"a key for everybody", func(s *Settings) { s.Store += "&ssh-key=" + open }, "has mode 0644", "chmod 600"},
		{"a builder's key for everybody", func(s *Settings) {
			s.Store, s.Builders = "", "ssh-ng://a x86_64-linux -\nssh-ng://b x86_64-linux "+open
		}, "the key of the builder ssh-ng://b: " + open + " has mode 0644", "chmod 600"},
		{"no URL", func(s *Settings) { s.Store = "ssh://host" }, "not the URL of a store", "ssh-ng://user@host"},
		{"a password", func(s *Settings) { s.Store = "ssh-ng://u:s3cret@host" }, "nobody who could log in", "ssh_key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			settings := good
			test.change(&settings)
			begun := time.Now()
			store, err := Open(t.Context(), Options{Settings: settings})
			if err == nil {
				store.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(strings.Join(hint.Of(err), "\n"), test.advice) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v\nhints %q", err, hint.Of(err))
			}
			if took := time.Since(begun); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}

	// One that doesn't answer is given up with its context.
	silent, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	good.Store = "ssh-ng://nix@" + silent.Addr().String()
	if _, err := Open(ctx, Options{Settings: good}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of one that doesn't answer: %v", err)
	}
}
