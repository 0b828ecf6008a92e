package image_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// root is who root of a container is on the worker: nobody there has that
// number, and all other numbers are what they are.
const root = math.MaxUint32 - 1

// An image is one that ci/image/build has left, unpacked as a worker unpacks it.
type image struct {
	rootfs     string
	env        []string // as a registry gives it to Concourse; a worker's own rootfs.tgz has none
	labels     map[string]string
	privileged bool // the resource type that it is for
}

// unpack unpacks what ci/image/build has left in a directory.
func unpack(t *testing.T, dir string) image {
	t.Helper()
	var config struct {
		Config struct {
			Env    []string
			Labels map[string]string
		}
	}
	if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, "config.json"))), &config); err != nil {
		t.Fatal(err)
	}
	rootfs := tempDir(t)
	if out, err := exec.Command("tar", "-xzpf", filepath.Join(dir, "rootfs.tgz"), "-C", rootfs).CombinedOutput(); err != nil {
		t.Fatalf("unpacking: %v\n%s", err, out)
	}
	giveToRoot(t, rootfs)
	return image{rootfs: rootfs, env: config.Config.Env, labels: config.Config.Labels}
}

// giveToRoot gives what is root's to the root of containers that are not
// privileged.
func giveToRoot(t *testing.T, dir string) { chown(t, dir, 0, root) }

// chown gives what is one user's in a directory to another.
func chown(t *testing.T, dir string, from, to uint32) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		if stat.Uid != from {
			return nil
		}
		if err := os.Lchown(path, int(to), int(to)); err != nil || stat.Mode&unix.S_IFMT == unix.S_IFLNK {
			return err
		}
		return unix.Chmod(path, stat.Mode&0o7777)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A mount is a directory of the worker in a container.
type mount struct{ source, destination string }

// A container is made as Concourse's worker makes one for the steps of a
// resource type, privileged or not (concourse/concourse, worker/runtime/spec):
// the same namespaces, the same users, the same capabilities, and what matters of
// the same system calls. Its root is a copy of the image's, as it comes. There is
// no network in it but a door to the cache.
type container struct {
	runc string
	id   string
	env  []string
}

// door is where a container finds the cache.
const door = "127.0.0.1:9000"

// A gate is what stands behind that door: one server. It keeps who came by.
type gate struct {
	server *url.URL

	mu     sync.Mutex
	agents map[string]bool
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.agents[r.UserAgent()] = true
	g.mu.Unlock()
	proxy := httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(g.server)
		r.Out.Host = r.In.Host // it is signed
	}}
	proxy.ServeHTTP(w, r)
}

// start starts a container, in which nothing runs but a sleep.
func start(t *testing.T, of image, env []string, cache *gate, mounts ...mount) *container {
	t.Helper()
	bundle := tempDir(t)
	c := &container{runc: tool(t, "runc"), id: "nixos-closure-" + strings.ReplaceAll(filepath.Base(filepath.Dir(bundle))+filepath.Base(bundle), "/", "-"), env: env}
	if !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }) {
		c.env = append(slices.Clone(env), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	rootfs := filepath.Join(bundle, "rootfs")
	layer(t, of.rootfs, rootfs)
	if of.privileged {
		chown(t, rootfs, root, 0)
	}

	busybox, err := filepath.Abs("../../.cache/busybox/busybox")
	if err != nil {
		t.Fatal(err)
	}
	hosts, resolv := filepath.Join(bundle, "hosts"), filepath.Join(bundle, "resolv.conf")
	write(t, hosts, "127.0.0.1 localhost\n")
	write(t, resolv, "nameserver 127.0.0.1\n")
	spec, err := json.Marshal(specification(c, of.privileged, append(mounts, mount{hosts, "/etc/hosts"}, mount{resolv, "/etc/resolv.conf"}, mount{busybox, "/tmp/busybox"})))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(bundle, "config.json"), string(spec))
	// What the sleep inherits mustn't be a pipe, whose end would be waited for.
	run := exec.Command(c.runc, "--log", filepath.Join(bundle, "log"), "run", "--detach", "--bundle", bundle, c.id)
	if err := run.Run(); err != nil {
		t.Fatalf("starting a container: %v\n%s", err, read(t, filepath.Join(bundle, "log")))
	}
	t.Cleanup(func() {
		if out, err := exec.Command(c.runc, "delete", "--force", c.id).CombinedOutput(); err != nil {
			t.Errorf("removing a container: %v\n%s", err, out)
		}
	})
	state, err := exec.Command(c.runc, "state", c.id).Output()
	if err != nil {
		t.Fatal(err)
	}
	var process struct{ Pid int }
	if err := json.Unmarshal(state, &process); err != nil {
		t.Fatal(err)
	}
	listener, err := listenInside(process.Pid)
	if err != nil {
		t.Fatalf("making a door to the cache: %v", err)
	}
	server := &http.Server{Handler: cache}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return c
}

// layer makes a directory look like a copy of another.
func layer(t *testing.T, from, to string) {
	t.Helper()
	upper, work := to+".upper", to+".work"
	for _, dir := range []string{to, upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(upper, root, root); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("overlay", to, "overlay", 0, "lowerdir="+from+",upperdir="+upper+",workdir="+work); err != nil {
		// This machine's own files are an overlay.
		if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
			t.Fatalf("copying the image: %v\n%s", err, out)
		}
		return
	}
	t.Cleanup(func() {
		if err := unix.Unmount(to, 0); err != nil {
			t.Errorf("unmounting a container's root: %v", err)
		}
	})
}

// listenInside opens the door in the network of a process.
func listenInside(pid int) (listener net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var inside, outside *os.File
		if inside, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
			return
		}
		defer inside.Close()
		runtime.LockOSThread()
		if outside, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return
		}
		defer outside.Close()
		if err = unix.Setns(int(inside.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		listener, err = net.Listen("tcp", door)
		// A thread that can't go back must end with this goroutine. (Otherwise it mustn't: it may have started the
		// server, which would end with it.)
		if back := unix.Setns(int(outside.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return listener, err
}

// allCapabilities are those that Concourse gives to what is privileged, in the
// order of their numbers.
const allCapabilities = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ"

// specification is what runc wants to know.
func specification(c *container, privileged bool, mounts []mount) map[string]any {
	type object = map[string]any
	var capabilities []string
	for name := range strings.FieldsSeq("AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID SYS_CHROOT") {
		capabilities = append(capabilities, "CAP_"+name)
	}
	identities := []object{
		{"containerID": 0, "hostID": root, "size": 1},
		{"containerID": 1, "hostID": 1, "size": root - 1},
	}
	var namespaces []object
	for _, kind := range []string{"pid", "ipc", "uts", "mount", "network", "user", "cgroup"} {
		namespaces = append(namespaces, object{"type": kind})
	}
	all := []object{
		{"destination": "/proc", "type": "proc", "source": "proc", "options": []string{"nosuid", "noexec", "nodev"}},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": []string{"nosuid", "noexec", "nodev", "mode=1777"}},
		{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": []string{"nosuid", "noexec", "nodev"}},
		{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	for _, m := range mounts {
		all = append(all, object{"destination": m.destination, "type": "bind", "source": m.source, "options": []string{"bind", "rw"}})
	}
	linux := object{
		"cgroupsPath": "/garden/" + c.id,
		"namespaces":  namespaces,
		"uidMappings": identities,
		"gidMappings": identities,
		// Concourse's list is of what is allowed. This is what is missing there and what Nix would use if it could.
		"seccomp": object{
			"defaultAction": "SCMP_ACT_ALLOW",
			"syscalls": []object{
				{"names": []string{"mount", "umount2", "pivot_root", "unshare", "setns", "keyctl", "bpf", "ptrace", "open_tree", "move_mount", "fsopen"}, "action": "SCMP_ACT_ERRNO", "errnoRet": int(unix.EPERM)},
				{"names": []string{"clone3"}, "action": "SCMP_ACT_ERRNO", "errnoRet": int(unix.ENOSYS)},
				{"names": []string{"clone"}, "action": "SCMP_ACT_ERRNO", "errnoRet": int(unix.EPERM), "args": []object{
					{"index": 0, "value": unix.CLONE_NEWUSER, "valueTwo": unix.CLONE_NEWUSER, "op": "SCMP_CMP_MASKED_EQ"},
				}},
			},
		},
	}
	if privileged {
		delete(linux, "seccomp")
		delete(linux, "uidMappings")
		delete(linux, "gidMappings")
		linux["namespaces"] = slices.DeleteFunc(namespaces, func(n object) bool { return n["type"] == "user" || n["type"] == "cgroup" })
		capabilities = nil
		for i, name := range strings.Fields(allCapabilities) {
			if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0); err == nil && has == 1 { // this machine may be a container, too
				capabilities = append(capabilities, "CAP_"+name)
			}
		}
		for _, m := range all {
			if m["destination"] == "/sys" {
				m["options"] = []string{"nosuid", "noexec", "nodev"}
			}
		}
	}
	return object{
		"ociVersion": "1.0.2",
		"hostname":   c.id,
		"root":       object{"path": "rootfs"},
		"process": object{
			"args": []string{"/tmp/busybox", "sleep", "600"}, "cwd": "/", "env": c.env, "user": object{"uid": 0, "gid": 0},
			"capabilities": object{"bounding": capabilities, "effective": capabilities, "inheritable": capabilities, "permitted": capabilities},
		},
		"mounts": all,
		"linux":  linux,
	}
}

// exec runs a program in the container, as Concourse does in one that is there.
func (c *container) exec(stdin string, env []string, command ...string) (stdout, stderr string, err error) {
	args := []string{"exec", "--cwd", "/"}
	for _, v := range env {
		args = append(args, "--env", v)
	}
	cmd := exec.Command(c.runc, slices.Concat(args, []string{c.id}, command)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	return out.String(), said.String(), err
}

// tool is a program that ci/get has got, or that the machine has.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../.cache", name, "bin", name))
	if err == nil {
		if _, err = os.Stat(path); err == nil {
			return path
		}
	}
	if path, err = exec.LookPath(name); err != nil {
		missing(t, "there is no %s: run ci/get %s", name, name)
	}
	return path
}

func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("NIXOS_CLOSURE_TEST_REQUIRE") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// tempDir is t.TempDir for what the root of a container has to reach.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := nixtest.TempDir(t)
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
