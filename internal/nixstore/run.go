package nixstore

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a child that was told to end may take to do so.
var patience = 10 * time.Second

// run runs a program from PATH to its end, or to that of ctx, as described in
// the package comment; env is added to its environment. Both writers may be nil;
// they are not used any more when run returns. If ctx has ended the child, the
// error is ctx's.
func run(ctx context.Context, env []string, stdout, stderr io.Writer, program string, args ...string) error {
	done := make(chan error, 1)
	go func() {
		// The thread gives up a capability for good, so it must end with this
		// goroutine, as locked threads do. It stays until the child has ended:
		// the kernel takes its end for that of the parent.
		runtime.LockOSThread()
		done <- runOnThread(ctx, env, stdout, stderr, program, args)
	}()
	return <-done
}

func runOnThread(ctx context.Context, env []string, stdout, stderr io.Writer, program string, args []string) error {
	if err := dropPtrace(); err != nil {
		return err
	}
	closeOnExec()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(environment(os.Environ()), env...)
	cmd.Stdout, cmd.Stderr = pipe(stdout), pipe(stderr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
	err := cmd.Run()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whoever is left of its group
	}
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // it ended well, but something that it left behind kept a pipe open
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// pipe hides a file, which the child would get as it is, behind a Writer, for
// which it gets a pipe.
func pipe(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok {
		return struct{ io.Writer }{f}
	}
	return w
}

// closeOnExec keeps from children the descriptors that we have inherited
// ourselves. (Go opens its own so that children don't get them.)
func closeOnExec() {
	if unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	for fd := range 1024 { // before Linux 5.11
		if fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}
