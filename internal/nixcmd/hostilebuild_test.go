package nixcmd

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// Whoever writes an expression, or what its builders run, looks for what this
// project and Nix were given, in each way in which builders can be kept apart,
// and in none; as root of a user namespace, as in a container of Concourse.
func TestHostileBuild(t *testing.T) { nixtest.Each(t, testHostileBuild) }

func testHostileBuild(t *testing.T, n *nixtest.Nix) {
	attributes := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUSER}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	if os.Getuid() == 0 {
		// Nix kills whatever runs as a build user, to begin with. The machine's processes are to be seen here, so
		// these build users are none that another test's Nix has.
		ids = []syscall.SysProcIDMap{{Size: firstBuildUser - 1}, {ContainerID: firstBuildUser - 1, HostID: firstBuildUser - 1 + 100000, Size: 35000}}
	}
	attributes.UidMappings, attributes.GidMappings = ids, ids
	attributes.GidMappingsEnableSetgroups = os.Getuid() == 0
	if err := (&exec.Cmd{Path: "/proc/self/exe", Args: []string{"test", "-test.run=^$"}, SysProcAttr: attributes}).Run(); err != nil {
		t.Skipf("this user can't have a user namespace: %v", err)
	}
	binary := forEverybody(t, os.Args[0])
	sources := nixtest.Sample(t)
	flake := filepath.Join(sources, "flake")
	// What looks around: in a sandbox only a shell is there to do it.
	hunt := fmt.Sprintf(`
		exec >&2
		echo looked
		[ ! -e %[1]s ] || %[1]s be-hostile-builder "$NIX_BUILD_TOP"
		mkdir $out
	`, binary)
	for name, text := range map[string]string{
		"config/test.nix": `with import ./lib.nix;
			let
			  hunt = name: build name { } ''` + hunt + `'';
			  variables = map builtins.getEnv [ "NIX_CONFIG" "NIX_USER_CONF_FILES" "AWS_SECRET_ACCESS_KEY" "VICTIM_SECRET" "SSH_AUTH_SOCK" ];
			  walk = depth: dir: builtins.concatStringsSep "" (builtins.attrValues (builtins.mapAttrs (name: type:
			    if type == "regular" then builtins.readFile (dir + "/${name}")
			    else if type == "directory" && depth > 0 then walk (depth - 1) (dir + "/${name}") else "") (builtins.readDir dir)));
			  look = value: builtins.trace "looked ${value}" (hunt "looked");
			in {
			  builder = hunt "hostile";
			  importing = builtins.seq (builtins.pathExists "${hunt "imported"}/x") (hunt "importing");
			  variables = look (builtins.toString variables);
			  environ = look (builtins.readFile /proc/self/environ);
			  arguments = look (builtins.readFile /proc/self/cmdline);
			  settings = look (builtins.readFile /proc/self/fd/3);
			  files = look (walk 3 (builtins.getEnv "TMPDIR"));
			}`,
		"flake/flake.nix": `{ outputs = _: { pure = builtins.trace "looked ${builtins.readFile /proc/self/fd/4}" { }; }; }`,
	} {
		if err := errors.Join(os.MkdirAll(flake, 0o755), os.WriteFile(filepath.Join(sources, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}

	for _, test := range []struct {
		name      string
		container string // what it permits
		settings  string
		isolation string
	}{
		{"sandbox and build users", "all", "build-users-group = nixbld", "users nixbld, sandbox true"},
		{"sandbox", "all", "", "users , sandbox true"},
		{"build users", "little", "build-users-group = nixbld", "users nixbld, sandbox false"},
		{"neither", "little", "", "users , sandbox false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.Contains(test.isolation, "nixbld") && os.Getuid() != 0 {
				t.Skip("only root has other users")
			}
			theirs := n.NewStore(t)
			var environment []string
			for _, variable := range theirs.Env() {
				if !strings.HasPrefix(variable, "NIX_REMOTE=") && !strings.HasPrefix(variable, "NIX_CONFIG=") {
					environment = append(environment, variable)
				}
			}
			// Where the victim keeps its files, for whoever may read them.
			files, err := os.MkdirTemp("", "")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(files)
			if err := os.Chmod(files, 0o777|fs.ModeSticky); err != nil {
				t.Fatal(err)
			}
			environment = append(environment, "NIX_REMOTE=local", "TMPDIR="+files, "NIX_CONFIG="+test.settings+"\nrestrict-eval = false")
			stdin := func(secret string) *os.File { return secretFile(t, secret) }
			run := func(how string) string {
				return victim(t, binary, attributes, stdin, environment, "be-victim-building", how, test.container, t.TempDir(), filepath.Join(sources, "config", "test.nix"), flake)
			}

			got := run("protected")
			if strings.Contains(got, "SECRET-") || strings.Contains(got, "found in") || strings.Contains(got, "has no secret") {
				t.Errorf("somebody has found a secret:\n%s", got)
			}
			want := []string{
				"isolation: " + test.isolation + "\n", "builder: done\n", "variables: done\n", "files: done\n", "settings: ",
				"pure: failed", "forbidden in pure eval",
			}
			if test.isolation == "users , sandbox false" {
				want = append(want, "warning: builders run as this step's own user", "importing: failed", "allow-import-from-derivation")
			} else {
				want = append(want, "importing: done\n")
			}
			for _, want := range want {
				if !strings.Contains(got, want) {
					t.Errorf("the victim doesn't say %q", want)
				}
			}
			if t.Failed() {
				t.Logf("the victim says:\n%s", got)
			}

			// Newer Nixes keep more from builders themselves.
			if test.name == "neither" && strings.HasPrefix(n.Version, "2.8.") {
				control := run("open")
				for _, want := range []string{"environ of", "files in", "memory of"} {
					if !strings.Contains(control, "found in "+want) {
						t.Errorf("unprotected, the secret isn't found in %s: this test tests nothing\n%s", want, control)
					}
				}
			}
		})
	}
}

// beVictimBuilding holds secrets and builds what hostile people have written.
func beVictimBuilding(how, container, root string, what []string) {
	enterOwnRoot(root)
	if container == "little" {
		if err := permitLittle(); err != nil {
			fmt.Println("giving up what a container hasn't got:", err)
		}
	}
	secret := os.Getenv("VICTIM_SECRET")
	if how == "open" {
		if err := os.WriteFile(filepath.Join(os.Getenv("TMPDIR"), "netrc"), []byte(secret), 0o600); err != nil {
			fmt.Println(err)
		}
		os.Setenv("NIX_CONFIG", os.Getenv("NIX_CONFIG")+"\nsandbox = false\nbuild-users-group =\naccess-tokens = example.org="+secret)
		beVictim(false, "nix-build", "--no-out-link", what[0], "-A", "builder")
		return
	}
	if err := ProtectProcess(); err != nil {
		fmt.Println(err)
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		fmt.Println(err)
	}
	block, err := ssh.MarshalPrivateKey(private, secret)
	if err != nil {
		fmt.Println(err)
	}
	key, err := ParseSSHKey(string(pem.EncodeToMemory(block)))
	if err != nil {
		fmt.Println(err)
	}
	ctx := context.Background()
	store, err := Open(ctx, Options{Log: os.Stdout, Warn: func(err error) { fmt.Println("warning:", err) }, Settings: Settings{
		AccessTokens: "example.org=" + secret, Netrc: "machine example.org password " + secret, SSHKey: key, KnownHosts: "example.org ssh-ed25519 AAAA",
	}})
	if err != nil {
		fmt.Println("opening the store:", err)
		return
	}
	do := func(name string, i Installable) {
		d, err := store.Evaluate(ctx, i)
		if err == nil {
			_, err = store.Realise(ctx, d)
		}
		if err != nil {
			fmt.Printf("%s: failed: %v\n", name, err)
		} else {
			fmt.Printf("%s: done\n", name)
		}
	}
	for _, attribute := range []string{"builder", "importing", "variables", "environ", "arguments", "settings", "files"} {
		do(attribute, Installable{File: what[0], Attribute: attribute})
	}
	do("pure", Installable{Flake: what[1], Attribute: "pure"})
	i := store.isolator.found
	fmt.Printf("isolation: users %s, sandbox %v\n", i.Users, i.Sandbox)
	if err := store.Close(); err != nil {
		fmt.Println("closing the store:", err)
	}
	if left, _ := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "nixos-closure-*")); len(left) > 0 {
		fmt.Println("left behind:", left)
	}
	if len(secret) == 0 { // and keeps it in memory
		fmt.Println("the victim has no secret")
	}
}

// permitLittle makes this a process such as containers have them that are not
// privileged: no namespaces, no mounts.
func permitLittle() error {
	err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0)
	err = errors.Join(err, unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0))
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	err = errors.Join(err, unix.Capget(&header, &sets[0]))
	sets[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	sets[0].Permitted &^= 1 << unix.CAP_SYS_ADMIN
	sets[0].Inheritable &^= 1 << unix.CAP_SYS_ADMIN
	return errors.Join(err, unix.Capset(&header, &sets[0]))
}

// beHostileBuilder looks for secrets in all processes and in files.
func beHostileBuilder(own string) {
	fmt.Println("looked, as user", os.Getuid())
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range processes {
		if filepath.Base(proc) == strconv.Itoa(os.Getpid()) {
			continue
		}
		if ours, err := os.Readlink(proc + "/ns/user"); err == nil {
			if mine, _ := os.Readlink("/proc/self/ns/user"); mine != ours {
				continue // the machine's
			}
		}
		name, _ := os.ReadFile(proc + "/comm")
		of := strings.TrimSpace(string(name))
		for _, file := range []string{"environ", "cmdline"} {
			if text, err := os.ReadFile(filepath.Join(proc, file)); err == nil && secretPattern.Match(text) {
				fmt.Println("found in", file, "of", of)
			}
		}
		fds, _ := filepath.Glob(proc + "/fd/*")
		for _, file := range fds {
			if target, _ := os.Readlink(file); strings.HasPrefix(target, "/dev") || strings.HasPrefix(target, "socket:") {
				continue
			}
			if fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
				text := make([]byte, 64<<10)
				n, _ := unix.Read(fd, text)
				if secretPattern.Match(text[:max(0, n)]) {
					fmt.Println("found in descriptor of", of)
				}
				unix.Close(fd)
			}
		}
		if searchMemory(proc + "/") {
			fmt.Println("found in memory of", of)
		}
	}
	for _, dir := range []string{os.Getenv("TMPDIR"), filepath.Dir(own), "/etc/nix", os.Getenv("NIX_CONF_DIR"), "/nix/var"} {
		filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
			if info, infoErr := os.Lstat(name); err == nil && infoErr == nil && info.Mode().IsRegular() && info.Size() < 1<<20 {
				if text, err := os.ReadFile(name); err == nil && secretPattern.Match(text) {
					fmt.Println("found in files in", dir, name)
				}
			}
			return nil
		})
	}
}

// enterOwnRoot gives this process a root directory like the machine's, but with
// an empty /nix, and users of its own.
func enterOwnRoot(root string) {
	must := func(err error) {
		if err != nil {
			fmt.Println("making a root directory:", err)
			os.Exit(1)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"))
	entries, err := os.ReadDir("/")
	must(err)
	for _, entry := range entries {
		from, to := "/"+entry.Name(), filepath.Join(root, entry.Name())
		switch {
		case entry.Name() == "nix":
		case entry.Name() == "etc":
			must(os.CopyFS(to, os.DirFS(from)))
		case entry.Type() == os.ModeSymlink:
			target, err := os.Readlink(from)
			must(err)
			must(os.Symlink(target, to))
		case entry.IsDir():
			must(os.Mkdir(to, 0o755))
			must(unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""))
		}
	}
	must(os.Mkdir(filepath.Join(root, "nix"), 0o755))
	must(os.Mkdir(filepath.Join(root, ".old"), 0o755))
	must(unix.PivotRoot(root, filepath.Join(root, ".old"))) // who has only a chroot gets no user namespaces
	must(os.Chdir("/"))
	must(unix.Unmount("/.old", unix.MNT_DETACH))
}
