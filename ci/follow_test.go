package ci_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// README.md shows the script that hosts copy, word for word.
func TestFollowIsInReadme(t *testing.T) {
	if !strings.Contains(string(read(t, "../README.md")), "```sh\n"+string(read(t, "examples/follow.sh"))+"```\n") {
		t.Error("README.md doesn't hold examples/follow.sh as it is")
	}
}

// A follower is a host that runs follow.sh, as somebody has copied it who has
// filled in the first lines.
type follower struct {
	*host
	onHost, script string
	pwned          string                                           // a file that hostile systems make
	answer         atomic.Pointer[func(w http.ResponseWriter) bool] // for the pointer; nil, or false, for what the cache has
}

// answers says how the pointer is answered from now on.
func (f *follower) answers(answer func(w http.ResponseWriter) bool) {
	f.answer.Store(&answer)
}

// newFollower makes a follower of web-1 in a cache in a directory.
func newFollower(t *testing.T, n *nixtest.Nix, cache, public string) *follower {
	t.Helper()
	f := &follower{pwned: filepath.Join(t.TempDir(), "pwned")}
	f.host, f.onHost = newHost(t, n, public)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := f.answer.Load()
		if r.URL.Path != "/pointers/web-1" || answer == nil || !(*answer)(w) {
			http.FileServer(http.Dir(cache)).ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	text := string(read(t, "examples/follow.sh"))
	for name, value := range map[string]string{"cache": server.URL, "key": public} {
		before, rest, ok := strings.Cut(text, "\n"+name+"=")
		_, after, _ := strings.Cut(rest, "\n")
		if !ok {
			t.Fatalf("follow.sh has no line %s=", name)
		}
		text = before + "\n" + name + "=" + value + "\n" + after
	}
	f.script = filepath.Join(t.TempDir(), "follow.sh")
	if err := os.WriteFile(f.script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *follower) follow(t *testing.T) (string, error) {
	out, err := exec.Command(f.onHost, f.script).CombinedOutput()
	t.Logf("follow.sh: %v\n%s", err, out)
	return string(out), err
}

// boots is the system that the host would boot.
func (f *follower) boots() string {
	link, _ := os.Readlink(filepath.Join(f.root, "nix/var/nix/profiles/system"))
	target, _ := os.Readlink(filepath.Join(f.root, "nix/var/nix/profiles", link))
	return target
}

// Whoever can write to the cache, but has no key, gets nothing run by a host that
// follows with follow.sh, but systems that the key has signed.
func TestFollowHostilePointer(t *testing.T) { nixtest.Each(t, testFollowHostilePointer) }

func testFollowHostilePointer(t *testing.T, n *nixtest.Nix) {
	store, key, stranger := n.NewStore(t), nixtest.NewKey(t, "cache.example.org-1"), nixtest.NewKey(t, "cache.example.org-1")
	dir := t.TempDir()
	cache, config := filepath.Join(dir, "cache"), filepath.Join(nixtest.Sample(t), "config")
	f := newFollower(t, n, cache, key.Public)

	// What hostile people would like to be run.
	evil := filepath.Join(dir, "evil")
	write(t, filepath.Join(evil, "bin/switch-to-configuration"), "#!/bin/sh\necho pwned >"+f.pwned+"\n", 0o755)
	link := filepath.Join(dir, "link")
	write(t, filepath.Join(config, "hostile.nix"), fmt.Sprintf(`with import ./lib.nix; rec {
		system = build "nixos-system-web-1-25.05" { } ''
		  mkdir -p $out/bin
		  printf '#!/bin/sh\necho pwned >%s\n' > $out/bin/switch-to-configuration
		  chmod +x $out/bin/switch-to-configuration
		'';
		other = build "nixos-system-web-1-25.06" { inherit system; } "mkdir $out; ln -s $system/bin $out/bin";
		own = build "nixos-system-web-1-25.07" { inherit system; } "mkdir $out; ln -s $system/bin $out/bin";
		outside = build "outside" { } "ln -s %s $out";
		nothing = build "nothing" { } "mkdir $out";
	}`, f.pwned, evil), 0o644)
	hostile := filepath.Join(config, "hostile.nix")
	push := func(path string, key *nixtest.Key) {
		to := "file://" + cache
		if key != nil {
			write(t, filepath.Join(dir, "key"), key.Secret, 0o600)
			to += "?secret-key=" + filepath.Join(dir, "key")
		}
		store.Run(t, "nix", "copy", "--to", to, path)
	}
	good := store.Build(t, filepath.Join(config, "default.nix"), "web-1")
	unsigned, misSigned := store.Build(t, hostile, "system"), store.Build(t, hostile, "other")
	outside, nothing := store.Build(t, hostile, "outside"), store.Build(t, hostile, "nothing")
	push(good.String(), &key)
	push(outside.String(), &key)
	push(nothing.String(), &key)
	push(unsigned.String(), nil)
	push(misSigned.String(), &stranger)
	// A tree and a derivation need no signature: their names are the hashes of what they hold.
	if err := os.Rename(evil, filepath.Join(dir, "nixos-system-web-1-25.05")); err != nil {
		t.Fatal(err)
	}
	addressed := store.Run(t, "nix-store", "--add", filepath.Join(dir, "nixos-system-web-1-25.05"))
	push(addressed, nil)
	if err := os.Rename(filepath.Join(dir, "nixos-system-web-1-25.05"), evil); err != nil {
		t.Fatal(err)
	}
	derivation := store.Run(t, "nix-instantiate", hostile, "--attr", "nothing")
	if out, err := store.Try("nix", "copy", "--derivation", "--to", "file://"+cache, derivation); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// A user of the host has built this one, which is in no cache.
	own := store.Build(t, hostile, "own")
	store.Run(t, "nix", "copy", "--no-check-sigs", "--to", f.root, own.String())

	if err := os.MkdirAll(filepath.Join(cache, "pointers"), 0o755); err != nil {
		t.Fatal(err)
	}
	setPointer := func(text string) { write(t, filepath.Join(cache, "pointers/web-1"), text, 0o644) }
	setPointer(good.String() + "\n")
	if _, err := f.follow(t); err != nil {
		t.Fatalf("following: %v", err)
	}
	if f.current(t) != good.String() || f.boots() != good.String() {
		t.Fatalf("the host runs %q and boots %q, want %s", f.current(t), f.boots(), good)
	}

	for name, test := range map[string]struct {
		pointer string
		prepare func()
		answer  func(w http.ResponseWriter) bool
		want    string // said by the script, Nix or curl
	}{
		"a directory outside of the store":        {pointer: evil, want: "holds no store path"},
		"a symlink to the system that runs":       {pointer: link, prepare: func() { relink(t, link, filepath.Join(f.root, good.String())) }, want: "holds no store path"},
		"a symlink into the store":                {pointer: link, prepare: func() { relink(t, link, good.String()) }, want: "holds no store path"},
		"out of the store":                        {pointer: "/nix/store/../.." + evil, want: "holds no store path"},
		"out of a store path":                     {pointer: good.String() + "/../../.." + evil, want: "holds no store path"},
		"a directory in a store path":             {pointer: good.String() + "/bin", want: "holds no store path"},
		"another system behind a newline":         {pointer: good.String() + "\n" + evil, want: "holds no store path"},
		"another system before a newline":         {pointer: evil + "\n" + good.String() + "\n", want: "holds no store path"},
		"a carriage return":                       {pointer: good.String() + "\r\n", want: "holds no store path"},
		"two systems":                             {pointer: good.String() + " " + unsigned.String(), want: "holds no store path"},
		"an option":                               {pointer: "--add", want: "holds no store path"},
		"a command":                               {pointer: "$(touch " + f.pwned + ")", want: "holds no store path"},
		"a command in a store path":               {pointer: "/nix/store/0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c-$(touch${IFS}" + f.pwned + ")", want: "holds no store path"},
		"a pattern":                               {pointer: "/nix/store/*-nixos-system-web-1-25.05", want: "holds no store path"},
		"nothing":                                 {pointer: "", want: "holds no store path"},
		"white space":                             {pointer: " \n\n", want: "holds no store path"},
		"the store":                               {pointer: "/nix/store/", want: "holds no store path"},
		"a path without the store":                {pointer: good.Base(), want: "holds no store path"},
		"half a path":                             {pointer: good.String()[:30], want: "holds no store path"},
		"a name cut short":                        {pointer: good.String()[:50], want: "error: "},
		"a page that says that there is an error": {pointer: "<!doctype html>\n<title>It works</title>\n", want: "holds no store path"},
		"an error":                                {answer: respond(500, "/nix/store/"), want: "500"},
		"an error that names a system":            {answer: respond(404, good.String()), want: "404"},
		"a redirect":                              {answer: respond(302, "<a href=/>here</a>"), want: "holds no store path"},
		"more than a pointer":                     {pointer: good.String() + strings.Repeat("\n", 2000), want: "curl: (63)"},
		"an answer that breaks off": {answer: func(w http.ResponseWriter) bool {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, good)
			return true
		}, want: "curl: (18)"},
		"no such path":                      {pointer: "/nix/store/0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c-nixos-system-web-1-25.05", want: "error: "},
		"a system that nobody has signed":   {pointer: unsigned.String(), want: "error: "},
		"a stranger's key of the same name": {pointer: misSigned.String(), want: "error: "},
		"a tree named by its content":       {pointer: addressed, want: "names a path that needs no signature"},
		"a derivation":                      {pointer: derivation, want: "holds no store path"},
		"what a user of the host has built": {pointer: own.String(), want: "is untrusted"},
		"a signed symlink out of the store": {pointer: outside.String(), want: "names what is no system"},
		"a signed path that is no system":   {pointer: nothing.String(), want: "names what is no system"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.prepare != nil {
				test.prepare()
			}
			setPointer(test.pointer)
			f.answers(func(w http.ResponseWriter) bool { return test.answer != nil && test.answer(w) })
			out, err := f.follow(t)
			if err == nil {
				t.Error("the script says nothing of it")
			}
			contains(t, out, test.want)
			if _, err := os.Stat(f.pwned); err == nil {
				t.Error("hostile code has run")
				os.Remove(f.pwned)
			}
			if f.current(t) != good.String() || f.boots() != good.String() {
				t.Fatalf("the host runs %q and boots %q, want %s", f.current(t), f.boots(), good)
			}
		})
	}

	// And after all that it follows still.
	f.answers(func(http.ResponseWriter) bool { return false })
	write(t, filepath.Join(config, "motd"), "The second day.\n", 0o644)
	second := store.Build(t, filepath.Join(config, "default.nix"), "web-1")
	push(second.String(), &key)
	setPointer(second.String() + "\n")
	if _, err := f.follow(t); err != nil || f.current(t) != second.String() || f.boots() != second.String() {
		t.Errorf("following: %v: the host runs %q and boots %q, want %s", err, f.current(t), f.boots(), second)
	}
}

// A host that runs what its pointer says does nothing; one whose switch failed
// tries again.
func TestFollowOnce(t *testing.T) {
	n := nixtest.Current(t)
	store, key := n.NewStore(t), nixtest.NewKey(t, "cache.example.org-1")
	dir := t.TempDir()
	cache, config := filepath.Join(dir, "cache"), filepath.Join(nixtest.Sample(t), "config")
	f := newFollower(t, n, cache, key.Public)
	// A system that counts its activations, and can't be switched to while there is no file.
	allowed := filepath.Join(dir, "allowed")
	program := string(read(t, filepath.Join(config, "switch-to-configuration")))
	program = strings.Replace(program, "set -eu\n", "set -eu\necho switching to @out@\n[ -e "+allowed+" ]\n", 1)
	write(t, filepath.Join(config, "switch-to-configuration"), program, 0o755)
	setPointer := func(system nix.StorePath) {
		write(t, filepath.Join(cache, "pointers/web-1"), system.String()+"\n", 0o644)
	}
	build := func(day string) nix.StorePath {
		write(t, filepath.Join(config, "motd"), day, 0o644)
		system := store.Build(t, filepath.Join(config, "default.nix"), "web-1")
		write(t, filepath.Join(dir, "key"), key.Secret, 0o600)
		store.Run(t, "nix", "copy", "--to", "file://"+cache+"?secret-key="+filepath.Join(dir, "key"), system.String())
		setPointer(system)
		return system
	}
	first := build("first")
	for _, want := range []struct {
		allowed  bool
		switches bool
		current  string
	}{
		{false, true, ""},             // the switch fails
		{true, true, first.String()},  // and is tried again
		{true, false, first.String()}, // and not any more
	} {
		if want.allowed {
			write(t, allowed, "", 0o644)
		}
		out, err := f.follow(t)
		if (err == nil) != want.allowed || strings.Contains(out, "switching to") != want.switches || f.current(t) != want.current {
			t.Errorf("want %+v; got error %v, current %q and\n%s", want, err, f.current(t), out)
		}
	}
	// A new one; and the first one again, which is a generation like any other.
	second := build("second")
	if _, err := f.follow(t); err != nil || f.current(t) != second.String() {
		t.Errorf("the host runs %q, want %s: %v", f.current(t), second, err)
	}
	setPointer(first)
	if _, err := f.follow(t); err != nil || f.current(t) != first.String() || f.boots() != first.String() {
		t.Errorf("the host runs %q and boots %q, want %s: %v", f.current(t), f.boots(), first, err)
	}

	// Somebody has chosen another one for the next boot.
	if out, err := exec.Command(f.onHost, "nix-env --profile /nix/var/nix/profiles/system --set "+second.String()).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := f.follow(t); err != nil || f.boots() != first.String() {
		t.Errorf("the host boots %q, want %s: %v", f.boots(), first, err)
	}
}

func respond(status int, body string) func(w http.ResponseWriter) bool {
	return func(w http.ResponseWriter) bool {
		if status == http.StatusFound {
			w.Header().Set("Location", "/nix-cache-info")
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
		return true
	}
}

func relink(t *testing.T, link, target string) {
	t.Helper()
	os.Remove(link)
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}
