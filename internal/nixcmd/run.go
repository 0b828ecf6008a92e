package nixcmd

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

// A child is what a program is started with, besides its arguments.
type child struct {
	stdout, stderr io.Writer // may be nil
	conversation   *pipes    // its stdin and stdout, if somebody is to talk with it

	conf  string   // what Nix reads as its first configuration file, if anything
	netrc string   // the text of a file that is open as netrcFD, if there is one
	env   []string // variables besides those that it gets of ours
}

// run is start for a program that needs no more than some variables.
func run(ctx context.Context, env []string, stdout, stderr io.Writer, program string, args ...string) error {
	return start(ctx, child{stdout: stdout, stderr: stderr, env: env}, program, args...)
}

// start runs a program from PATH to its end, or to that of ctx, as described in
// the package comment. The writers are not used any more when it returns. If ctx
// has ended the child, the error is ctx's.
func start(ctx context.Context, c child, program string, args ...string) error {
	done := make(chan error, 1)
	go func() {
		// The thread gives up a capability for good, so it must end with this
		// goroutine, as locked threads do. It stays until the child has ended:
		// the kernel takes its end for that of the parent.
		runtime.LockOSThread()
		done <- c.runOnThread(ctx, program, args)
	}()
	return <-done
}

func (c *child) runOnThread(ctx context.Context, program string, args []string) error {
	if err := dropPtrace(); err != nil {
		return err
	}
	closeOnExec()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(environment(os.Environ()), c.env...)
	cmd.Stdout, cmd.Stderr = pipe(c.stdout), pipe(c.stderr)
	if c.conversation != nil {
		cmd.Stdin, cmd.Stdout = c.conversation.stdin, c.conversation.stdout
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
	closeFiles, err := c.openFiles(cmd)
	if err != nil {
		return err
	}
	err = cmd.Start()
	if c.conversation != nil {
		c.conversation.handOver()
	}
	if err == nil {
		err = cmd.Wait()
	}
	closeFiles()
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

// openFiles opens the files that Nix reads by their descriptors: its
// configuration, a pipe, which is empty when it has been read; and a file that
// it may read again, which has no name and goes with the last who has it open.
func (c *child) openFiles(cmd *exec.Cmd) (closeFiles func(), err error) {
	if c.conf == "" {
		return func() {}, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	files := []*os.File{r, w}
	closeFiles = func() {
		for _, f := range files {
			f.Close()
		}
	}
	cmd.ExtraFiles = []*os.File{r}
	cmd.Env = append(cmd.Env, "NIX_USER_CONF_FILES="+userConfFiles())
	if c.netrc != "" {
		fd, err := unix.MemfdCreate("netrc", unix.MFD_CLOEXEC)
		if err != nil {
			closeFiles()
			return nil, err
		}
		netrc := os.NewFile(uintptr(fd), "netrc")
		files = append(files, netrc)
		if _, err := netrc.WriteString(c.netrc); err != nil {
			closeFiles()
			return nil, err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, netrc)
	}
	go func() {
		io.WriteString(w, c.conf) // until Nix has read it, or closeFiles
		w.Close()
	}()
	return closeFiles, nil
}

// Pipes lead to a program's stdin and from its stdout: two ends for it, and two
// for whoever talks with it.
type pipes struct {
	stdin, stdout *os.File // the program's
	in, out       *os.File // ours
}

func newPipes() (*pipes, error) {
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close(), in.Close())
	}
	return &pipes{stdin: stdin, stdout: stdout, in: in, out: out}, nil
}

// handOver closes the program's ends, once it has them.
func (p *pipes) handOver() {
	p.stdin.Close()
	p.stdout.Close()
}

// close closes ours.
func (p *pipes) close() {
	p.in.Close()
	p.out.Close()
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
