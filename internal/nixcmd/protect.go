package nixcmd

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ProtectProcess makes this process one that can't be traced or dumped, and
// whose memory, environment and descriptors nobody may read through /proc who
// lacks CAP_SYS_PTRACE, be it under the same user, be it root. The children
// that this package starts lack it.
//
// Programs that hold secrets call it first of all.
func ProtectProcess() error {
	err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	if err == nil {
		err = hideEnvironment()
	}
	if err != nil {
		return fmt.Errorf("protecting this process from being read by others: %w", err)
	}
	return nil
}

// hideEnvironment empties /proc/self/environ, which newer kernels (6.18 is one)
// show to the machine's root without CAP_SYS_PTRACE too, for CAP_PERFMON or for
// CAP_SYS_ADMIN, which Nix needs for its sandbox. It tells the kernel where this
// process has its parts, as the kernel has just said, but that the environment
// is empty. (It isn't: the process keeps it.)
func hideEnvironment() error {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	// Behind the program's name, which may hold anything, come fields 3 to 52
	// of proc_pid_stat(5).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 49 {
		return fmt.Errorf("/proc/self/stat ends after field %d", len(fields)+2)
	}
	field := func(number int) uint64 {
		n, parseErr := strconv.ParseUint(fields[number-3], 10, 64)
		err = errors.Join(err, parseErr)
		return n
	}
	brk, _, _ := unix.RawSyscall(unix.SYS_BRK, 0, 0, 0) // of 0 it gives the present one
	layout := struct {                                  // struct prctl_mm_map
		startCode, endCode, startData, endData, startBrk, brk, startStack uint64
		argStart, argEnd, envStart, envEnd, auxv                          uint64
		auxvSize, exeFd                                                   uint32
	}{
		field(26), field(27), field(45), field(46), field(47), uint64(brk), field(28),
		field(48), field(49), field(50), field(50), 0,
		0, math.MaxUint32, // both as they are
	}
	if err != nil {
		return fmt.Errorf("reading /proc/self/stat: %w", err)
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, uintptr(unsafe.Pointer(&layout)), unsafe.Sizeof(layout), 0, 0)
	if errno != 0 && errno != unix.EINVAL { // which kernels without CONFIG_CHECKPOINT_RESTORE return
		return errno
	}
	return nil
}

// dropPtrace takes CAP_SYS_PTRACE from this thread and from what it starts,
// for good.
func dropPtrace() error {
	// A program that root starts gets what is inheritable or in the bounding
	// set, whatever the thread itself still has.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("reading this thread's capabilities: %w", err)
	}
	sets[0].Inheritable &^= 1 << unix.CAP_SYS_PTRACE
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("giving up inheritable CAP_SYS_PTRACE: %w", err)
	}
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_PTRACE, 0, 0, 0)
	if err != nil || has == 0 {
		return err
	}
	err = unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_PTRACE, 0, 0, 0)
	if err == unix.EPERM && unix.Geteuid() != 0 {
		return nil // the bounding set gives nothing to other users
	}
	if err != nil {
		return fmt.Errorf("keeping CAP_SYS_PTRACE from child processes: %w", err)
	}
	return nil
}
