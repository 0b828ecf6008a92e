package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// The program as it is shipped is one that nobody can read, before it reads the
// first byte of its request. (What that keeps from whom, TestHostileChild and
// TestHostileBuild of internal/nixcmd find out.)
func TestOutIsProtected(t *testing.T) {
	t.Parallel()
	protected := func(program string, patience time.Duration) bool {
		cmd := exec.Command(filepath.Join(programs(), program), t.TempDir())
		const nobody = 65534
		if os.Getuid() == 0 { // since what root has can always be read by root
			if err := os.Chmod(programs(), 0o711); err != nil {
				t.Fatal(err)
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
		request, err := cmd.StdinPipe() // nothing is ever written to it
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer request.Close()
		// The files in /proc of a process that can't be dumped belong to root.
		environ := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "environ")
		for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			info, err := os.Stat(environ)
			if err != nil {
				t.Fatal(err)
			}
			if info.Sys().(*syscall.Stat_t).Uid == 0 {
				return true
			}
			if time.Since(begin) > patience {
				return false
			}
		}
	}
	if !protected("out", 30*time.Second) {
		t.Error("out can be read while it waits for its request")
	}
	if protected("check", time.Second) { // which has no children
		t.Error("check can't be read either: this test tests nothing")
	}
}
