package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// processes lists the processes, zombies apart, with an argument that contains text.
func processes(t *testing.T, text string) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(files) == 0 {
		t.Skip("there is no /proc")
	}
	for _, file := range files {
		cmdline, err := os.ReadFile(file)
		if err == nil && bytes.Contains(cmdline, []byte(text)) { // a zombie has none
			pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

func waitUntil(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func TestRun(t *testing.T) {
	var stdout, stderr bytes.Buffer
	err := run(t.Context(), nil, &stdout, &stderr, "sh", "-c", "cat; echo out; echo err >&2; exit 3")
	if err == nil || err.Error() != "exit status 3" {
		t.Errorf("got error %v, want exit status 3", err)
	}
	if diff := cmp.Diff([]string{"out\n", "err\n"}, []string{stdout.String(), stderr.String()}); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := run(t.Context(), nil, nil, nil, "no-such-program"); err == nil {
		t.Error("a program that isn't there has run")
	}
}

// When its context ends, a child ends, and what it has started ends with it,
// though it may not want to.
func TestRunCancelled(t *testing.T) {
	defer func(p time.Duration) { patience = p }(patience)
	for name, test := range map[string]struct {
		patience time.Duration
		script   string
	}{
		"ends when asked":          {time.Minute, "sleep 1000; :"},
		"has to be killed":         {100 * time.Millisecond, "trap '' TERM; sleep 1000; :"},
		"leaves somebody behind":   {100 * time.Millisecond, "(trap '' TERM; sleep 1000; :) & wait"},
		"leaves somebody, unpiped": {time.Minute, "(trap '' TERM; sleep 1000; :) >/dev/null 2>&1 & wait"},
	} {
		t.Run(name, func(t *testing.T) {
			patience = test.patience
			marker := "marker-" + filepath.Base(t.TempDir()) + strconv.Itoa(os.Getpid()) + t.Name()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			begun := &signalWriter{text: "begun", seen: make(chan struct{})}
			done := make(chan error, 1)
			go func() { done <- run(ctx, nil, begun, nil, "sh", "-c", "echo begun; "+test.script, marker) }()
			select {
			case <-begun.seen:
			case err := <-done:
				t.Fatalf("the child has ended: %v", err)
			}
			if len(processes(t, marker)) == 0 {
				t.Fatal("the child isn't found")
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("got error %v, want context.Canceled", err)
			}
			waitUntil(t, "all children are gone", func() bool { return len(processes(t, marker)) == 0 })
		})
	}
}

// A child that ends well isn't held against what it leaves behind.
func TestRunEndsStragglers(t *testing.T) {
	defer func(p time.Duration) { patience = p }(patience)
	patience = 100 * time.Millisecond
	marker := "marker-" + strconv.Itoa(os.Getpid()) + t.Name()
	var stdout bytes.Buffer
	if err := run(t.Context(), nil, &stdout, nil, "sh", "-c", "(sleep 1000; :) & echo done", marker); err != nil || stdout.String() != "done\n" {
		t.Errorf("got %q, %v", &stdout, err)
	}
	waitUntil(t, "all children are gone", func() bool { return len(processes(t, marker)) == 0 })
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{
		"PATH=/bin", "HOME=/", "NIX_REMOTE=daemon", "NIX_CONFIG=a = b\nc = d", "LC_ALL=C", "XDG_CACHE_HOME=/c", "https_proxy=http://p", "SSL_CERT_FILE=/f",
		"AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", "AWS_SESSION_TOKEN=x", "BUILD_ID=1", "ATC_EXTERNAL_URL=x", "SIGNING_KEY=x", "LD_PRELOAD=x",
		"PATHOLOGICAL=x", "MY_NIX_KEY=x", "nix_key=x", "=x", "",
	})
	want := []string{
		"PATH=/bin", "HOME=/", "NIX_REMOTE=daemon", "LC_ALL=C", "XDG_CACHE_HOME=/c", "https_proxy=http://p", "SSL_CERT_FILE=/f",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
