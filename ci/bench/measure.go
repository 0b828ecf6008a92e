package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A command is a program to run, and how.
type command struct {
	args  []string
	env   []string
	stdin string
}

// A usage is what a program took, its children included.
type usage struct {
	Seconds float64 // by the clock
	CPU     float64 // in seconds, of user and system
	Peak    int64   // in bytes, the most memory that one of its processes had
}

// measure runs a command to its end and returns what it printed.
//
// The command is the child of a small process that does nothing else (see
// launch): the kernel counts what a parent has in memory for its child's, until
// the child has become the program.
func measure(ctx context.Context, c command) (usage, []byte, error) {
	self, err := os.Executable()
	if err != nil {
		return usage{}, nil, err
	}
	report, reported, err := os.Pipe()
	if err != nil {
		return usage{}, nil, err
	}
	defer report.Close()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, self, append([]string{launchArg}, c.args...)...)
	cmd.Env, cmd.Stdin = c.env, strings.NewReader(c.stdin)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.ExtraFiles = []*os.File{reported}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children, too
	err = cmd.Run()
	reported.Close()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return usage{}, nil, fmt.Errorf("%s: %w\n%s", filepath.Base(c.args[0]), err, bytes.TrimSpace(stderr.Bytes()))
	}
	var u usage
	err = json.NewDecoder(report).Decode(&u)
	return u, stdout.Bytes(), err
}

// launchArg, as the first argument, makes this program launch the rest.
const launchArg = "launch"

// launch runs a command for measure and returns its exit status. What it took
// goes to file descriptor 3.
func launch(args []string) int {
	runtime.LockOSThread() // Pdeathsig is about the thread
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	err := cmd.Run()
	seconds := time.Since(start).Seconds()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 127
	}
	state := cmd.ProcessState
	json.NewEncoder(os.NewFile(3, "report")).Encode(usage{
		Seconds: seconds,
		CPU:     (state.UserTime() + state.SystemTime()).Seconds(),
		Peak:    state.SysUsage().(*syscall.Rusage).Maxrss << 10,
	})
	if !state.Success() {
		return 1
	}
	return 0
}
