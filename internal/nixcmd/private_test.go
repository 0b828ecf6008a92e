package nixcmd

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A listener is a web server that has nothing, and hears who asks.
type listener struct {
	*httptest.Server
	mu    sync.Mutex
	heard map[string]string // the Authorization of requests by their path
}

func newListener(t *testing.T, start func(http.Handler) *httptest.Server) *listener {
	l := &listener{heard: map[string]string{}}
	l.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.heard[r.URL.Path] = r.Header.Get("Authorization")
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(l.Close)
	return l
}

// said is the Authorization of the one request that was made since, if there was
// one.
func (l *listener) said() (authorization string, asked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer clear(l.heard)
	for _, authorization = range l.heard {
		return authorization, true
	}
	return "", false
}

// Evaluations fetch private inputs with what the source has for that, and builds
// where nothing else can read it.
func TestPrivateInputs(t *testing.T) { nixtest.Each(t, testPrivateInputs) }

func testPrivateInputs(t *testing.T, n *nixtest.Nix) {
	theirs, sources := n.NewStore(t), nixtest.Sample(t)
	theirs.Setenv(t)
	secure, plain := newListener(t, httptest.NewTLSServer), newListener(t, httptest.NewServer)
	authority := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(authority, certificate, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", authority)
	t.Setenv("NIX_SSL_CERT_FILE", authority)
	const host = "example.com" // which the certificate is for, and this proxy leads to the listener
	t.Setenv("https_proxy", tunnel(t, secure.Listener.Addr().String()))
	repository, rev := gitRepository(t)
	server := newSSHServer(t, os.Environ())

	const hash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	expressions := map[string]string{
		"token": fmt.Sprintf(`builtins.fetchTree { type = "github"; owner = "o"; repo = "r"; host = "%s"; rev = "%040d"; narHash = "%s"; }`, host, 1, hash),
		"netrc": fmt.Sprintf(`builtins.fetchurl { url = "%s/netrc"; sha256 = "%s"; }`, plain.URL, hash),
		"git":   fmt.Sprintf(`(builtins.fetchGit { url = "ssh://nix@%s%s"; rev = "%s"; allRefs = true; }).outPath`, server.address, repository, rev),
	}
	built := fmt.Sprintf(`derivation { name = "built"; system = "builtin"; builder = "builtin:fetchurl"; url = "%s/built"; outputHash = "%s"; outputHashMode = "flat"; executable = false; unpack = false; }`, plain.URL, hash)
	var flake, file strings.Builder
	for name, expression := range expressions {
		text := fmt.Sprintf("%s = derivation { name = \"x\"; system = \"x\"; builder = \"x\"; of = builtins.toString (%s); };\n", name, expression)
		flake.WriteString(text)
		file.WriteString(text)
	}
	dir := filepath.Join(sources, "flake")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"flake/flake.nix": "{ outputs = _: { " + flake.String() + " built = " + built + "; }; }",
		"config/test.nix": "{ " + file.String() + " }",
	} {
		if err := os.WriteFile(filepath.Join(sources, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	var log bytes.Buffer
	store, err := Open(t.Context(), Options{Log: &log, Settings: Settings{
		AccessTokens: host + "=t0ken", Netrc: "machine 127.0.0.1 login me password s3cret", SSHKey: server.userKey, KnownHosts: server.knownHosts,
		Lines: "experimental-features = nix-command flakes\ndownload-attempts = 1\n",
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()

	pure := func(attribute string) (Derivation, error) {
		return store.Evaluate(t.Context(), Installable{Flake: dir, Attribute: attribute})
	}
	freely := func(attribute string) error {
		_, err := store.Evaluate(t.Context(), Installable{File: filepath.Join(sources, "config", "test.nix"), Attribute: attribute})
		return err
	}
	const basic = "Basic bWU6czNjcmV0"
	pure("token")
	if got, _ := secure.said(); !strings.HasSuffix(got, " t0ken") {
		t.Errorf("a pure evaluation says %q for a token\n%s", got, &log)
	}
	freely("token")
	if got, _ := secure.said(); !strings.HasSuffix(got, " t0ken") {
		t.Errorf("a free evaluation says %q for a token\n%s", got, &log)
	}
	pure("netrc")
	if got, _ := plain.said(); got != basic {
		t.Errorf("a pure evaluation says %q for netrc\n%s", got, &log)
	}
	freely("netrc")
	if got, asked := plain.said(); got != "" || !asked {
		t.Errorf("a free evaluation, which could read it, says %q for netrc (asked: %v)", got, asked)
	}
	if _, err := pure("git"); err != nil {
		t.Errorf("a pure evaluation can't log in: %v\n%s", err, &log)
	}
	if ran := server.commands(); !slices.ContainsFunc(ran, func(c string) bool { return strings.HasPrefix(c, "git-upload-pack ") }) {
		t.Errorf("git has run %q", ran)
	}

	d, err := pure("built")
	if err != nil {
		t.Fatal(err)
	}
	for apart, want := range map[bool]string{true: basic, false: ""} {
		store.isolator.found = &Isolation{Sandbox: apart}
		store.Realise(t.Context(), d)
		if got, asked := plain.said(); got != want || !asked {
			t.Errorf("a build, apart from others: %v, says %q for netrc (asked: %v)\n%s", apart, got, asked, &log)
		}
	}
	if strings.Contains(log.String(), "s3cret") || strings.Contains(log.String(), "t0ken") {
		t.Errorf("the log has a secret:\n%s", &log)
	}
}

// tunnel starts a proxy that leads to one address whatever it is asked for.
func tunnel(t *testing.T, address string) (url string) {
	t.Helper()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		there, err := net.Dial("tcp", address)
		if err != nil || r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		here.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		go func() { io.Copy(there, here); there.Close() }()
		io.Copy(here, there)
		here.Close()
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// gitRepository makes one with a commit.
func gitRepository(t *testing.T) (dir, rev string) {
	t.Helper()
	dir = t.TempDir()
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "--quiet")
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	git("add", "file")
	git("commit", "--quiet", "--message", "m")
	return dir, git("rev-parse", "HEAD")
}

// A machine that builds, too, is reached with the key that this process keeps.
func TestRemoteBuilder(t *testing.T) { nixtest.Each(t, testRemoteBuilder) }

func testRemoteBuilder(t *testing.T, n *nixtest.Nix) {
	here, there, sources := n.NewStore(t), n.NewStore(t), nixtest.Sample(t)
	here.Setenv(t)
	server := newSSHServer(t, there.Env())
	_, port, _ := strings.Cut(server.address, ":")
	t.Setenv("NIX_SSHOPTS", "-p "+port) // Nix 2.8 takes none in a URL
	var log bytes.Buffer
	store, err := Open(t.Context(), Options{Log: &log, Settings: Settings{
		Builders: "ssh-ng://nix@127.0.0.1?remote-program=" + n.Program("nix-daemon") + " " + system(t, here) + " - 4",
		Lines:    "max-jobs = 0\n", SSHKey: server.userKey, KnownHosts: server.knownHosts,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	d, err := store.Evaluate(t.Context(), Installable{File: write(t, sources, `build "elsewhere" { } "echo done > $out"`)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Realise(t.Context(), d); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	if !slices.ContainsFunc(there.All(t), func(i nix.PathInfo) bool { return i.Path == d.OutPath }) {
		t.Errorf("it was not built there:\n%s", &log)
	}
	here.Closure(t, d.OutPath)

	// Once nothing is to log in, nobody can.
	if store.ssh.users != 0 {
		t.Errorf("the agent would sign for %d processes", store.ssh.users)
	}
	store.ssh.env()
	cmd := exec.Command("ssh", append(strings.Fields(store.ssh.options), "nix@127.0.0.1", "true")...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+store.ssh.socket())
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("somebody has logged in afterwards: %s", out)
	}
	defer store.ssh.use()()
	cmd = exec.Command("ssh", cmd.Args[1:]...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+store.ssh.socket())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("nobody could have logged in before: %v: %s", err, out)
	}
}

// One that can't be reached is named, at once, when nothing else builds.
func TestUnreachableBuilder(t *testing.T) { nixtest.Each(t, testUnreachableBuilder) }

func testUnreachableBuilder(t *testing.T, n *nixtest.Nix) {
	nixtest.SSH(t)
	here, sources := n.NewStore(t), nixtest.Sample(t)
	here.Setenv(t)
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	_, port, _ := strings.Cut(closed.Addr().String(), ":")
	t.Setenv("NIX_SSHOPTS", "-p "+port)
	store, err := Open(t.Context(), Options{Settings: Settings{Builders: "ssh-ng://nix@127.0.0.1 " + system(t, here) + " - 4", Lines: "max-jobs = 0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	d, err := store.Evaluate(t.Context(), Installable{File: write(t, sources, `build "elsewhere" { } "echo done > $out"`)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = store.Realise(ctx, d)
	want := "machines among builders can't be reached: ssh: connect to host 127.0.0.1 port " + port + ": Connection refused"
	if advice := strings.Join(hint.Of(err), "\n"); err == nil || !strings.Contains(advice, want) {
		t.Errorf("got %v, with advice %q", err, advice)
	}
}

// system is what this machine's Nix builds for.
func system(t *testing.T, s *nixtest.Store) string {
	t.Helper()
	return strings.Trim(s.Run(t, "nix-instantiate", "--eval", "--expr", "builtins.currentSystem"), `"`)
}
