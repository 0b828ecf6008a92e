package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processUnits are processes of our own, each the leader of a session, with a
// file that says which one it is.
//
// Nothing may be left that has no such file. So what is started first is this
// very program ([UnitMain]), which waits until it is told that the file is
// there, and ends if whoever started it is gone; only then it becomes the command.
//
// They are weaker than systemd's: a command may leave its session, and whatever
// ends all processes of the machine, or of the cgroup, ends them.
type processUnits struct {
	dir  string
	self string // this program
}

// UnitCommand is the first argument by which a program that uses this package is
// asked to call UnitMain with those that follow.
const UnitCommand = "unit"

// UnitMain is how a process of a unit begins: it waits for a byte on stdin, and
// then for so many milliseconds, and becomes the command. It only returns if
// that fails.
func UnitMain(args []string) error {
	if len(args) < 2 {
		return errors.New("want milliseconds and a command")
	}
	milliseconds, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err
	}
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the process that began this unit is gone: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err == nil {
		err = unix.Dup3(int(null.Fd()), 0, 0)
	}
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(milliseconds) * time.Millisecond)
	program, err := exec.LookPath(args[1])
	if err != nil {
		return err
	}
	return &fs.PathError{Op: "exec", Path: program, Err: syscall.Exec(program, args[1:], os.Environ())}
}

func (u *processUnits) Run(ctx context.Context, name, output string, env []string, argv ...string) error {
	out, err := os.Create(output)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd, err := u.start(ctx, name, 0, out, env, argv)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return errors.Join(withOutput(err, output, argv), u.forget(name))
	case <-ctx.Done():
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		err := u.End(ending, name)
		return errors.Join(withOutput(context.Cause(ctx), output, argv), err)
	}
}

func (u *processUnits) Later(ctx context.Context, name string, after time.Duration, argv ...string) error {
	if err := os.MkdirAll(u.dir, 0o755); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(u.dir, name+".log"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd, err := u.start(ctx, name, after, out, nil, argv)
	if err != nil {
		return err
	}
	go cmd.Wait() // so that it leaves no zombie while this process lives
	return nil
}

// start starts a unit's process, and returns when nothing could lose it.
func (u *processUnits) start(ctx context.Context, name string, after time.Duration, out *os.File, env, argv []string) (*exec.Cmd, error) {
	if err := u.End(ctx, name); err != nil {
		return nil, err
	}
	gate, open, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer open.Close()
	cmd := exec.Command(u.self, append([]string{UnitCommand, strconv.FormatInt(after.Milliseconds(), 10)}, argv...)...)
	cmd.Env = append(environment(), env...)
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = gate, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	gate.Close()
	if err != nil {
		return nil, err
	}
	process, err := describeProcess(cmd.Process.Pid)
	if err == nil {
		err = os.MkdirAll(u.dir, 0o755)
	}
	if err == nil {
		err = replaceFile(u.file(name), []byte(process.String()), 0o644)
	}
	if err == nil {
		_, err = io.WriteString(open, "\n")
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, fmt.Errorf("starting the unit %s: %w", name, err)
	}
	return cmd, nil
}

func (u *processUnits) End(ctx context.Context, name string) error {
	leader, err := u.leader(name)
	if err != nil || leader.pid == 0 {
		return err
	}
	if err := endSession(ctx, leader); err != nil {
		return fmt.Errorf("ending the unit %s: %w", name, err)
	}
	return u.forget(name)
}

// leader is the first process of a unit, or zero if there is none.
func (u *processUnits) leader(name string) (process, error) {
	data, err := os.ReadFile(u.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return process{}, nil
	}
	if err != nil {
		return process{}, err
	}
	leader, err := parseProcess(string(data))
	if err == nil && leader.pid <= 1 {
		err = fmt.Errorf("it names the process %d", leader.pid)
	}
	if err != nil {
		return process{}, fmt.Errorf("%s: %w", u.file(name), err)
	}
	return leader, nil
}

func (u *processUnits) file(name string) string { return filepath.Join(u.dir, name) }

func (u *processUnits) forget(name string) error {
	if err := os.Remove(u.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// grace is how long the processes of a unit that is ended may take for it.
const grace = 5 * time.Second

// endSession ends all processes of a session whose leader that is, or was. They
// are told to end first. It doesn't touch a process that merely has a number
// which once was the leader's.
func endSession(ctx context.Context, leader process) error {
	for signal, began := syscall.SIGTERM, time.Now(); ; {
		members, err := sessionOf(leader)
		if err != nil || len(members) == 0 {
			return err
		}
		if time.Since(began) > grace {
			signal = syscall.SIGKILL
		}
		for _, pid := range members {
			syscall.Kill(pid, signal)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sessionOf are the living processes of the session that leader has begun.
func sessionOf(leader process) ([]int, error) {
	if now, err := describeProcess(leader.pid); err == nil && (now.started != leader.started || now.boot != leader.boot) {
		return nil, nil // the number is another's, whose session can't be the leader's
	}
	if boot, err := bootID(); err != nil || boot != leader.boot {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var members []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		p, err := describeProcess(pid)
		if err == nil && p.session == leader.pid && p.started >= leader.started && !p.dead {
			members = append(members, pid)
		}
	}
	return members, nil
}

// A process is one that its number alone doesn't name: numbers are used again.
type process struct {
	pid, session int
	started      uint64 // in ticks since the boot
	boot         string // the kernel's id of it
	dead         bool   // it has ended, and nobody has looked yet
}

func (p process) String() string { return fmt.Sprintf("%d %d %s\n", p.pid, p.started, p.boot) }

// parseProcess reads what String has written of the leader of a session.
func parseProcess(s string) (p process, err error) {
	if _, err := fmt.Sscan(s, &p.pid, &p.started, &p.boot); err != nil {
		return process{}, fmt.Errorf("it doesn't name a process: %w", err)
	}
	p.session = p.pid
	return p, nil
}

// describeProcess reads what the kernel says of a process (proc_pid_stat(5)).
func describeProcess(pid int) (process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from field 3 on
	if len(fields) < 20 {
		return process{}, fmt.Errorf("/proc/%d/stat ends after field %d", pid, len(fields)+2)
	}
	session, err := strconv.Atoi(fields[6-3])
	if err != nil {
		return process{}, err
	}
	started, err := strconv.ParseUint(fields[22-3], 10, 64)
	if err != nil {
		return process{}, err
	}
	boot, err := bootID()
	return process{pid, session, started, boot, fields[0] == "Z" || fields[0] == "X"}, err
}

// bootID names the present boot of the machine.
func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}
