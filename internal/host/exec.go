package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// environment is what programs that are started here may know of ours: nothing
// that could hold a credential of a cache.
func environment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TZ", "LANG", "LOCALE_ARCHIVE", "TMPDIR", "SSL_CERT_FILE", "NIX_SSL_CERT_FILE", "NIX_REMOTE", "NIX_CONF_DIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// A commandError says how a program has failed, and what it said last.
type commandError struct {
	argv   []string
	err    error
	output string // its last lines
}

func (e *commandError) Error() string {
	text := fmt.Sprintf("%s: %v", strings.Join(e.argv, " "), e.err)
	if e.output != "" {
		text += ": " + strings.ReplaceAll(e.output, "\n", " | ")
	}
	return text
}

func (e *commandError) Unwrap() error { return e.err }

// command runs a program to its end, or to that of ctx, with its whole group of
// processes, and returns what it printed.
func command(ctx context.Context, env []string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = slices.Concat(environment(), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for whoever has left its group with our pipe
	var stdout, both limited
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, &both), &both
	err := cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		err = &commandError{argv, err, lastLines(both.String())}
	}
	return stdout.String(), err
}

// A limited buffer keeps the end of what is written to it, by several writers.
type limited struct {
	mu sync.Mutex
	b  []byte
}

const maxOutput = 64 << 10 // bytes

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	l.b = l.b[max(0, len(l.b)-maxOutput):]
	return len(p), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// lastLines are the last ones of an output, for a message.
func lastLines(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
