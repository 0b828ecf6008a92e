package nixcmd

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	nginx   = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nginx.drv"
	openssl = "/nix/store/10bgd045z0d4icpbc2yyz4gx48ak44la-openssl.drv"
)

// What Nix says is read however it comes in, and whatever stands between its lines.
func TestBuildLog(t *testing.T) {
	said := strings.Join([]string{
		`warning: something that isn't JSON`,
		`@nix {"action":"msg","level":1,"msg":"\u001b[35;1mwarning:\u001b[0m you did not specify '--add-root'"}`,
		`@nix {"action":"msg","level":3,"msg":"these 2 derivations will be built:"}`,
		`@nix {"action":"msg","level":5,"msg":"what nobody wants to know"}`,
		`@nix {"action":"start","id":1,"level":6,"text":"querying","type":0}`,
		`@nix {"action":"start","fields":["` + nginx + `","",1,1],"id":2,"level":3,"text":"building '` + nginx + `'","type":105}`,
		`@nix {"action":"start","fields":["` + openssl + `","ssh://builder",1,1],"id":3,"level":3,"text":"building '` + openssl + `' on 'ssh://builder'","type":105}`,
		`@nix {"action":"result","fields":["\u001b[31mcompiling\u001b[0m"],"id":2,"type":101}`,
		`@nix {"action":"result","fields":["linking"],"id":3,"type":101}`,
		`@nix {"action":"result","fields":["of nobody's"],"id":4,"type":101}`,
		`@nix {"action":"result","fields":[1,2,0,0],"id":2,"type":105}`,
		`@nix {"action":"stop","id":2}`,
		`@nix {"action":"msg","level":0,"msg":"error: builder for '` + nginx + `' failed with exit code 1;\nlast 1 log lines:\n> compiling"}`,
		`@nix {"action":"msg","level":0,"msg":"error: 1 dependencies of derivation '` + openssl + `' failed to build"}`,
		`@nix {"action":`,
	}, "\n") + "\n"
	for _, size := range []int{1, 7, len(said)} {
		var w bytes.Buffer
		log := newBuildLog(&w)
		for rest := said; rest != ""; rest = rest[min(size, len(rest)):] {
			fmt.Fprint(log, rest[:min(size, len(rest))])
		}
		want := strings.Join([]string{
			"warning: something that isn't JSON",
			"these 2 derivations will be built:",
			"building '" + nginx + "'...",
			"building '" + openssl + "' on 'ssh://builder'...",
			"nginx> \x1b[31mcompiling\x1b[0m",
			"openssl> linking",
			"of nobody's",
			`@nix {"action":`,
		}, "\n") + "\n"
		if diff := cmp.Diff(want, w.String()); diff != "" {
			t.Errorf("in pieces of %d bytes (-want +got)\n%s", size, diff)
		}
		failed := log.failed()
		if len(failed) != 1 || failed[0].Derivation.String() != nginx || failed[0].Reason != "builder failed with exit code 1" || !cmp.Equal(failed[0].LastLines, []string{"compiling"}) {
			t.Errorf("in pieces of %d bytes: got failures %+v", size, failed)
		}
	}
}

// All the words in which the Nixes that we support say that something failed.
func TestBuildFailures(t *testing.T) {
	for _, test := range []struct{ message, reason string }{
		{"error: builder for '" + nginx + "' failed with exit code 1", "builder failed with exit code 1"},
		{"error: Cannot build '" + nginx + "'.\n       Reason: builder failed with exit code 1.\n       Output paths:\n         /nix/store/x", "builder failed with exit code 1"},
		{"error: Cannot build '" + nginx + "'.\n       Reason: platform mismatch\n       Required system: 'riscv64-linux'\n       Current system: 'x86_64-linux'", "platform mismatch, Required system: 'riscv64-linux', Current system: 'x86_64-linux'"},
		{"error: hash mismatch in fixed-output derivation '" + nginx + "':\n         specified: sha256-a=\n            got:    sha256-b=", "hash mismatch: specified: sha256-a=, got: sha256-b="},
		{"error: building of '" + nginx + "!out' from .drv file timed out after 1 seconds", "building of '" + nginx + "!out' from .drv file timed out after 1 seconds"},
	} {
		log := newBuildLog(&bytes.Buffer{})
		log.line(fmt.Sprintf(`@nix {"action":"msg","level":0,"msg":%q}`, test.message))
		if failed := log.failed(); len(failed) != 1 || failed[0].Derivation.String() != nginx || failed[0].Reason != test.reason {
			t.Errorf("%q: got %+v, want %q", test.message, failed, test.reason)
		}
		if log.message() != test.reason {
			t.Errorf("%q: got the message %q", test.message, log.message())
		}
	}
	for _, message := range []string{
		"error: Cannot build '" + nginx + "'.\n       Reason: 1 dependency failed.\n       Output paths:\n         /nix/store/x",
		"error: 2 dependencies of derivation '" + nginx + "' failed to build",
		"error: build of '" + nginx + "', '" + openssl + "' failed",
	} {
		log := newBuildLog(&bytes.Buffer{})
		log.line(fmt.Sprintf(`@nix {"action":"msg","level":0,"msg":%q}`, message))
		if failed := log.failed(); len(failed) > 0 {
			t.Errorf("%q: got %+v, want none: others have failed", message, failed)
		}
	}
}

// Whatever a builder says, and however many there are, memory is bounded.
func TestBuildLogIsBounded(t *testing.T) {
	var w bytes.Buffer
	log := newBuildLog(&w)
	piece := bytes.Repeat([]byte("x"), 64<<10)
	for range 100 {
		log.Write(piece)
		if len(log.unfinished) > longestLine {
			t.Fatalf("keeps %d bytes of a line", len(log.unfinished))
		}
	}
	fmt.Fprint(log, "\nafter\n")
	if want := "(a line of more than 1048576 bytes is left out)\nafter\n"; w.String() != want {
		t.Errorf("got %.100q, want %q", &w, want)
	}

	for id := range keptBuilds + 3 {
		fmt.Fprintf(log, "@nix {\"action\":\"start\",\"fields\":[%q],\"id\":%d,\"level\":3,\"text\":\"\",\"type\":105}\n", nginx, id)
		for range keptLines + 1 {
			fmt.Fprintf(log, "@nix {\"action\":\"result\",\"fields\":[%q],\"id\":%d,\"type\":101}\n", strings.Repeat("y", keptBytes+1), id)
		}
		fmt.Fprintf(log, "@nix {\"action\":\"stop\",\"id\":%d}\n", id)
	}
	kept := 0
	for _, b := range log.ended {
		for _, line := range b.lastLines {
			kept += len(line)
		}
	}
	if kept != keptBuilds*keptLines*keptBytes || len(log.running) > 0 {
		t.Errorf("keeps %d bytes of %d builds, and %d that run", kept, len(log.ended), len(log.running))
	}
}
