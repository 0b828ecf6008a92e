package resource

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A taskImage is how Concourse reads metadata.json.
type taskImage struct {
	Env  []string `json:"env"`
	User string   `json:"user"`
}

// task runs a command as Concourse runs a task whose image is a get: in a
// container made from that alone.
//
//	task DEST COMMAND [ARGUMENT…]
func task() {
	dest := os.Args[1]
	var metadata taskImage
	data, err := os.ReadFile(filepath.Join(dest, "metadata.json"))
	if err == nil {
		err = json.Unmarshal(data, &metadata)
	}
	if err == nil {
		cmd := contained(filepath.Join(dest, "rootfs"), os.Args[2:])
		cmd.Env = metadata.Env
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		err = cmd.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// contained is a command in a container: in namespaces of its own, as a root
// who may do nothing outside, with no other files than those of rootfs.
func contained(rootfs string, command []string) *exec.Cmd {
	return &exec.Cmd{
		Path: command[0],
		Args: command,
		Dir:  "/",
		SysProcAttr: &syscall.SysProcAttr{
			Chroot: rootfs,
			Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
				syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		},
	}
}

// condition is what a script may ask: [container], whether this machine gives
// us namespaces to make one in.
func condition(name string) (bool, error) {
	switch name {
	case "container":
		return contained("/", []string{"/bin/true"}).Run() == nil, nil
	case "mount":
		return os.Geteuid() == 0 && exec.Command("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt").Run() == nil, nil
	}
	return false, fmt.Errorf("unknown condition %s", name)
}

// without runs a command that can't make use of a system call: the kernel
// answers it with an error, as it would for some file systems.
//
//	without SYSCALL ERRNO COMMAND [ARGUMENT…]
func without() {
	call := map[string]uint32{"symlinkat": unix.SYS_SYMLINKAT, "linkat": unix.SYS_LINKAT, "mkdirat": unix.SYS_MKDIRAT}[os.Args[1]]
	errno := map[string]unix.Errno{"EPERM": unix.EPERM, "ENAMETOOLONG": unix.ENAMETOOLONG}[os.Args[2]]
	path, err := exec.LookPath(os.Args[3])
	if err != nil || call == 0 || errno == 0 {
		panic(fmt.Sprint(os.Args, err))
	}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0); err != nil {
		panic(err)
	}
	panic(syscall.Exec(path, os.Args[3:], os.Environ()))
}
