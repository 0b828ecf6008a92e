package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func newProcessUnits(t *testing.T) (*processUnits, string) {
	t.Helper()
	dir := t.TempDir()
	return &processUnits{filepath.Join(dir, "units"), os.Args[0]}, dir
}

// What a Units promises, of the processes of our own. (systemd's are tested in a
// machine where it runs.)
func TestProcessUnitsRun(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	u, dir := newProcessUnits(t)
	output := filepath.Join(dir, "output")
	must(t, os.WriteFile(output, []byte("of the last one"), 0o644))
	must(t, u.Run(t.Context(), "unit", output, []string{"EXTRA=1"}, "sh", "-c", "env; cat; echo done"))
	said, err := os.ReadFile(output)
	must(t, err)
	if text := string(said); !strings.HasSuffix(text, "done\n") || !strings.Contains(text, "EXTRA=1\n") || strings.Contains(text, "secret") || strings.Contains(text, "last one") {
		t.Errorf("got the output %q", text)
	}
	err = u.Run(t.Context(), "unit", output, nil, "sh", "-c", "echo broken; exit 3")
	if exitCode(err) != 3 || !strings.Contains(err.Error(), "exit status 3: broken") {
		t.Errorf("want exit status 3, got %v", err)
	}
	if err := u.Run(t.Context(), "unit", output, nil, "/nowhere"); err == nil {
		t.Error("a program that isn't there has succeeded")
	}
}

// A unit that takes too long is ended, with all its processes.
func TestProcessUnitsTimeout(t *testing.T) {
	u, dir := newProcessUnits(t)
	late := errors.New("it took too long")
	ctx, cancel := context.WithCancelCause(t.Context())
	pidFile := filepath.Join(dir, "pid")
	go func() {
		for pidIn(pidFile) == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel(late)
	}()
	err := u.Run(ctx, "unit", filepath.Join(dir, "output"), nil, "sh", "-c", `sleep 1000 & echo $! > "$0.new"; mv "$0.new" "$0"; wait`, pidFile)
	if !errors.Is(err, late) {
		t.Errorf("want the cause, got %v", err)
	}
	if alive(pidIn(pidFile)) {
		t.Error("a process of the unit is left")
	}
}

// End knows a unit that another process has begun, and no other process.
func TestProcessUnitsEnd(t *testing.T) {
	u, dir := newProcessUnits(t)
	pidFile := filepath.Join(dir, "pid")
	must(t, u.Later(t.Context(), "unit", 0, "sh", "-c", `echo $$ > "$0.new"; mv "$0.new" "$0"; sleep 1000`, pidFile))
	for pidIn(pidFile) == 0 {
		time.Sleep(time.Millisecond)
	}
	pid := pidIn(pidFile)
	other := &processUnits{u.dir, u.self}
	must(t, other.End(t.Context(), "another"))
	if !alive(pid) {
		t.Fatal("another unit was ended")
	}

	// A file that names the number of a process that isn't the one it was.
	leader, err := u.leader("unit")
	must(t, err)
	stale := leader
	stale.started++
	must(t, os.WriteFile(u.file("stale"), []byte(stale.String()), 0o644))
	must(t, other.End(t.Context(), "stale"))
	stale = leader
	stale.boot = "another"
	must(t, os.WriteFile(u.file("stale"), []byte(stale.String()), 0o644))
	must(t, other.End(t.Context(), "stale"))
	if !alive(pid) {
		t.Fatal("a process was ended that is not the unit's")
	}

	must(t, other.End(t.Context(), "unit"))
	if alive(pid) {
		t.Error("it wasn't ended")
	}
	must(t, other.End(t.Context(), "unit")) // there is none any more
	for _, text := range []string{"", "1 1 x\n", "x"} {
		must(t, os.WriteFile(u.file("broken"), []byte(text), 0o644))
		if err := other.End(t.Context(), "broken"); err == nil {
			t.Errorf("%q names no unit", text)
		}
	}
}

// There is one unit of a name.
func TestProcessUnitsReplace(t *testing.T) {
	u, dir := newProcessUnits(t)
	pidFile := filepath.Join(dir, "pid")
	must(t, u.Later(t.Context(), "unit", 0, "sh", "-c", `echo $$ > "$0.new"; mv "$0.new" "$0"; sleep 1000`, pidFile))
	for pidIn(pidFile) == 0 {
		time.Sleep(time.Millisecond)
	}
	must(t, u.Run(t.Context(), "unit", filepath.Join(dir, "output"), nil, "true"))
	if alive(pidIn(pidFile)) {
		t.Error("the first one is still there")
	}
}

// What is started waits for its file to be there, and does nothing if whoever
// started it is gone.
func TestUnitOfADeadProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "begun")
	cmd := exec.Command(os.Args[0], UnitCommand, "0", "touch", file)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	must(t, stdin.Close())
	if err := cmd.Wait(); err == nil {
		t.Error("it has succeeded")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("it has begun")
	}
}

func pidIn(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		panic(fmt.Sprintf("%s: %v", file, err))
	}
	return pid
}

func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	p, err := describeProcess(pid)
	return err == nil && !p.dead
}
