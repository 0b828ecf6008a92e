package nixcmd

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// An Isolation is what keeps builders from Nix, from this process and from one
// another. What nix.conf and Settings.Lines say of it stands. Where they say
// nothing, Nix gets users for its builders, if root can make them, and its
// sandbox, if that works here.
type Isolation struct {
	Daemon  bool   // another process builds, as its own settings say
	Users   string // the group of the users that builders run as; empty: as our own
	Sandbox bool   // builders see only what they are to see

	lines string // of nix.conf that make it so
}

// apart says whether a builder can't read what Nix has.
func (i Isolation) apart() bool { return i.Daemon || i.Users != "" || i.Sandbox }

// Warning is what a person should know of it, if anything.
func (i Isolation) Warning() error {
	if i.apart() {
		return nil
	}
	return hint.With(errors.New("builders run as this step's own user, without Nix's sandbox, since neither that nor users of their own are possible here: they see and change what Nix does for other builds"),
		"build in a task, and hand the path over to this put (closure: …); or give the resource type privileged: true")
}

// machineSettings are what Nix says of itself before anything is isolated.
type machineSettings struct {
	Store           struct{ Value string }
	Sandbox         struct{ Value any }    // true, false or "relaxed"
	SandboxFallback struct{ Value bool }   `json:"sandbox-fallback"`
	BuildUsersGroup struct{ Value string } `json:"build-users-group"`
}

// An isolator finds out, once, before the first build.
type isolator struct {
	machine machineSettings
	realDir string
	warn    func(error) // may be nil

	mu    sync.Mutex
	found *Isolation
}

func (o *isolator) isolate(ctx context.Context) (Isolation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.found == nil {
		i, err := o.find(ctx)
		if err != nil {
			return Isolation{}, fmt.Errorf("finding out how builders can be kept apart: %w", err)
		}
		o.found = &i
		if warning := i.Warning(); warning != nil && o.warn != nil {
			o.warn(warning)
		}
	}
	return *o.found, nil
}

func (o *isolator) find(ctx context.Context) (Isolation, error) {
	if usesDaemon(o.machine.Store.Value) {
		return Isolation{Daemon: true}, nil
	}
	var i Isolation
	switch group := o.machine.BuildUsersGroup.Value; {
	case os.Geteuid() != 0 || group == "": // Nix doesn't, or mustn't, change users
	case usableGroup(group):
		i.Users = group
	case group != defaultGroup: // written down, so Nix is to say what is wrong with it
	case inContainer() && mayBecome(firstBuildUser, buildUsers):
		if err := makeBuildUsers(); err != nil {
			return Isolation{}, err
		}
		i.Users = group
	default:
		i.lines = "build-users-group =\n"
	}
	switch {
	case o.machine.Sandbox.Value == false:
	case o.realDir != nix.StoreDir:
		i.Sandbox = true // Nix builds for such a store in no other way
	case o.machine.Sandbox.Value == true && o.machine.SandboxFallback.Value: // as they are by default
		if i.Sandbox = sandboxWorks(ctx, i); i.Sandbox {
			i.lines += "sandbox-fallback = false\n"
		} else {
			i.lines += "sandbox = false\n"
		}
	default:
		i.Sandbox = o.machine.Sandbox.Value == true
	}
	return i, ctx.Err()
}

// usesDaemon says whether that store is a daemon's (Nix, src/libstore/store-api.cc).
func usesDaemon(setting string) bool {
	base, _, _ := strings.Cut(setting, "?")
	switch {
	case base == "daemon" || strings.HasPrefix(base, "unix://"):
		return true
	case base != "" && base != "auto":
		return false
	}
	state := os.Getenv("NIX_STATE_DIR")
	if state == "" {
		state = "/nix/var/nix"
	}
	if unix.Access(state, unix.W_OK) == nil {
		return false
	}
	_, err := os.Stat(state + "/daemon-socket/socket")
	return err == nil
}

// sandboxWorks says whether Nix can build in its sandbox here, by having it
// build the least that there is: a path with one symlink.
func sandboxWorks(ctx context.Context, i Isolation) bool {
	const probe = `derivation { name = "nixos-closure-probe"; system = "builtin"; builder = "builtin:buildenv"; derivations = ""; manifest = "/"; probe = "%s"; }`
	lines := i.lines + "sandbox = true\nsandbox-fallback = false\nsubstituters =\nbuilders =\npost-build-hook =\n"
	err := start(ctx, child{conf: lines}, "nix-build", "--no-out-link", "--expr", fmt.Sprintf(probe, rand.Text()))
	return err == nil
}

// The users that builders run as, by the names and numbers that Nix's own
// installers give them.
const (
	defaultGroup   = "nixbld"
	buildGroup     = 30000
	firstBuildUser = 30001
	buildUsers     = 32
)

// usableGroup says whether there is a group with members, all of whom this
// process may become.
func usableGroup(name string) bool {
	f, err := os.Open("/etc/group")
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != 4 || fields[0] != name || fields[3] == "" {
			continue
		}
		for _, member := range strings.Split(fields[3], ",") {
			u, err := user.Lookup(member)
			if err != nil {
				return false
			}
			if uid, err := strconv.ParseInt(u.Uid, 10, 64); err != nil || !mayBecome(uid, 1) {
				return false
			}
		}
		return true
	}
	return false
}

// inContainer says whether the users of this machine are this container's
// alone, and go with it: it has a user namespace of its own, or says that it is
// one, or Concourse made it.
func inContainer() bool {
	if whole, err := hasIDs("/proc/self/uid_map", 0, 1<<32-1); err == nil && !whole {
		return true
	}
	for _, file := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	return os.Getenv("container") != "" || os.Getenv("BUILD_ID") != "" && os.Getenv("ATC_EXTERNAL_URL") != ""
}

// mayBecome says whether this process, root, may become the users with those
// numbers, and give files to them.
func mayBecome(first, count int64) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if unix.Capget(&header, &sets[0]) != nil {
		return false
	}
	for _, capability := range []int{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_FOWNER, unix.CAP_KILL} {
		if sets[0].Effective&(1<<capability) == 0 {
			return false
		}
	}
	if groups, err := os.ReadFile("/proc/self/setgroups"); err == nil && strings.TrimSpace(string(groups)) != "allow" {
		return false
	}
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		if all, err := hasIDs(file, first-1, count+1); err != nil || !all {
			return false
		}
	}
	return true
}

// hasIDs says whether a user namespace, by its uid_map or gid_map, has all of
// those numbers.
func hasIDs(file string, first, count int64) (bool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(data)) {
		var inside, outside, length int64
		if n, _ := fmt.Sscan(line, &inside, &outside, &length); n == 3 && inside <= first && first+count <= inside+length {
			return true, nil
		}
	}
	return false, nil
}

// makeBuildUsers makes the group nixbld, and its members as far as they aren't
// there, in this container.
func makeBuildUsers() error {
	var users, members strings.Builder
	for n := int64(1); n <= buildUsers; n++ {
		name := fmt.Sprintf("%s%d", defaultGroup, n)
		if _, err := user.Lookup(name); err != nil {
			fmt.Fprintf(&users, "%s:x:%d:%d:Nix build user %d:/var/empty:/sbin/nologin\n", name, firstBuildUser+n-1, buildGroup, n)
		}
		if n > 1 {
			members.WriteByte(',')
		}
		members.WriteString(name)
	}
	group := fmt.Sprintf("%s:x:%d:%s\n", defaultGroup, buildGroup, members.String())
	if err := appendTo("/etc/passwd", users.String()); err != nil {
		return err
	}
	return appendTo("/etc/group", group)
}

// appendTo adds lines to a file, which may be missing, at once.
func appendTo(name, lines string) error {
	before, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if n := len(before); n > 0 && before[n-1] != '\n' {
		lines = "\n" + lines
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(lines)
	return errors.Join(err, f.Close())
}
