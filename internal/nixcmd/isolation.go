package nixcmd

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
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
// another. What [Settings.Lines] and NIX_CONFIG say of it stands, and so does
// nix.conf on a machine. Where they say nothing, Nix gets its sandbox, if that
// works here, and users for its builders, if there are some or root can make
// them. The nix.conf of a container says less: the official image turns the
// sandbox off since most containers permit none, not because anybody wants it.
type Isolation struct {
	Daemon  bool   // another process builds, as its own settings say
	Users   string // the group of the users that builders run as; empty: as our own
	Sandbox bool   // builders see only what they are to see

	reason string // why there is no sandbox, as "which …"
	advice string // how there could be one
	lines  string // of nix.conf that make it so
}

// apart says whether a builder can't read what Nix has.
func (i Isolation) apart() bool { return i.Daemon || i.Users != "" || i.Sandbox }

// Warning says what builders can do that they could not in a sandbox, and how to
// keep them from it; nil if they are in one.
func (i Isolation) Warning() error {
	if i.Daemon || i.Sandbox {
		return nil
	}
	who, can := "as this step's own user", "they see and change what Nix does for other builds"
	if i.Users != "" {
		who, can = "as users of their own", "they see this step's files, its network and its processes"
	}
	return hint.With(fmt.Errorf("builders run %s, and not in Nix's sandbox, which %s: %s", who, i.reason, can), "%s", i.advice)
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
	ask     func(ctx context.Context, lines string) (machineSettings, error) // what they are on top of lines of a nix.conf
	written string                                                           // lines of nix.conf that have the last word
	realDir string
	warn    func(error) // may be nil
	log     io.Writer

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
		o.tell(i)
	}
	return *o.found, nil
}

// tell says how builders are kept apart, unless they are in a sandbox. That they
// are not is usual in a container, and no more than a line if they can't read what
// Nix has.
func (o *isolator) tell(i Isolation) {
	warning := i.Warning()
	if warning == nil || o.warn == nil {
		return
	}
	if i.apart() {
		fmt.Fprintf(o.log, "%v (%s)\n", warning, i.advice)
	} else {
		o.warn(warning)
	}
}

func (o *isolator) find(ctx context.Context) (Isolation, error) {
	if usesDaemon(o.machine.Store.Value) {
		return Isolation{Daemon: true}, nil
	}
	var i Isolation
	if err := o.findUsers(ctx, &i); err != nil {
		return Isolation{}, err
	}
	if err := o.findSandbox(ctx, &i); err != nil {
		return Isolation{}, err
	}
	return i, ctx.Err()
}

func (o *isolator) findUsers(ctx context.Context, i *Isolation) error {
	group := o.machine.BuildUsersGroup.Value
	if os.Geteuid() != 0 || group == "" {
		return nil // Nix doesn't, or mustn't, change users
	}
	if usableGroup(group) {
		i.Users = group
		return nil
	}
	if group != defaultGroup {
		return nil // it is written down, so Nix is to say what is wrong with it
	}
	may := inContainer() && mayBecome(firstBuildUser, buildUsers)
	if may && !inStep() {
		written, err := o.ask(ctx, "build-users-group =\n")
		if err != nil {
			return err
		}
		may = written.BuildUsersGroup.Value == group
	}
	if !may {
		i.lines += "build-users-group =\n"
		return nil
	}
	made, err := makeBuildUsers()
	if err != nil {
		return err
	}
	fmt.Fprintf(o.log, "made %d users in this container's /etc/passwd for Nix's builders to run as\n", made)
	i.Users = group
	return nil
}

func (o *isolator) findSandbox(ctx context.Context, i *Isolation) error {
	settings, unsaid := o.machine, false
	if settings.Sandbox.Value == false && inContainer() {
		var err error
		if settings, err = o.ask(ctx, "sandbox = true\n"); err != nil {
			return err
		}
		unsaid = settings.Sandbox.Value == true
	}
	switch {
	case settings.Sandbox.Value == false && inContainer():
		i.reason, i.advice = "nix_config or NIX_CONFIG turns off", "leave sandbox = false out of it"
	case settings.Sandbox.Value == false:
		i.reason, i.advice = "this machine's nix.conf turns off", "nix_config: sandbox = true turns it on for this build"
	case settings.Sandbox.Value != true:
		i.reason, i.advice = fmt.Sprintf("sandbox = %v lets them leave", settings.Sandbox.Value), "write sandbox = true into nix_config"
	case o.realDir != nix.StoreDir:
		i.Sandbox = true // Nix builds for such a store in no other way
	case unsaid || settings.SandboxFallback.Value: // which it is by default
		i.reason, i.advice = trySandbox(ctx, i.lines+o.written)
		i.Sandbox = i.reason == ""
	default:
		i.Sandbox = true // or it doesn't build
		return nil
	}
	if i.Sandbox {
		i.lines += "sandbox = true\nsandbox-fallback = false\n"
	} else if settings.Sandbox.Value == true {
		i.lines += "sandbox = false\n"
	}
	return nil
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

// trySandbox finds out whether Nix, with those lines of nix.conf, can build in its sandbox here, by having it
// build the least that there is: a path with one symlink. If it can't, it returns
// why, and what to do about it.
func trySandbox(ctx context.Context, lines string) (reason, advice string) {
	const probe = `derivation { name = "nixos-closure-probe"; system = "builtin"; builder = "builtin:buildenv"; derivations = ""; manifest = "/"; probe = "%s"; }`
	lines += "sandbox = true\nsandbox-fallback = false\nsubstituters =\nbuilders =\npost-build-hook =\n"
	var said tail
	err := start(ctx, child{conf: lines, stderr: &said}, "nix-build", "--no-out-link", "--expr", fmt.Sprintf(probe, rand.Text()))
	switch {
	case err == nil:
		return "", ""
	case !hasCapabilities(unix.CAP_SYS_ADMIN):
		return "this container doesn't permit", "privileged: true permits it; or build in a task, without keys, what you don't trust"
	}
	message, _ := lastError(said.String())
	message, _, _ = strings.Cut(message, "\n")
	return fmt.Sprintf("doesn't work here (%s)", message), "build in a task, without keys, what you don't trust"
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
	return os.Getenv("container") != "" || inStep()
}

// inStep says whether this is a get or a put of Concourse, whose container is
// made for it and goes with it.
func inStep() bool { return os.Getenv("BUILD_ID") != "" && os.Getenv("ATC_EXTERNAL_URL") != "" }

// mayBecome says whether this process, root, may become the users with those
// numbers, and give files to them.
func mayBecome(first, count int64) bool {
	if !hasCapabilities(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_FOWNER, unix.CAP_KILL) {
		return false
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

// hasCapabilities says whether this process has all of those capabilities, each of
// which is one of the first 32.
func hasCapabilities(capabilities ...int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if unix.Capget(&header, &sets[0]) != nil {
		return false
	}
	for _, capability := range capabilities {
		if sets[0].Effective&(1<<capability) == 0 {
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
// there, in this container. It returns how many it has made.
func makeBuildUsers() (made int, err error) {
	var users, members strings.Builder
	for n := int64(1); n <= buildUsers; n++ {
		name := fmt.Sprintf("%s%d", defaultGroup, n)
		if _, err := user.Lookup(name); err != nil {
			fmt.Fprintf(&users, "%s:x:%d:%d:Nix build user %d:/var/empty:/sbin/nologin\n", name, firstBuildUser+n-1, buildGroup, n)
			made++
		}
		if n > 1 {
			members.WriteByte(',')
		}
		members.WriteString(name)
	}
	group := fmt.Sprintf("%s:x:%d:%s\n", defaultGroup, buildGroup, members.String())
	if err := appendTo("/etc/passwd", users.String()); err != nil {
		return 0, err
	}
	return made, appendTo("/etc/group", group)
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
