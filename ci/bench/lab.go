package main

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
	"runtime"
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A lab is what all measurements have in common: the programs that compete, the
// servers, the place to write to, and a key.
type lab struct {
	repo     string // the checkout
	cache    string // what is worth keeping for the next time
	scratch  string // all that is written while measuring
	programs string // the directory of ours
	nix      string // the directory of Nix's
	log      io.Writer

	secretKey, publicKey string
	keyFile              string // has secretKey

	systems map[string]nix.StorePath // that were built
	limits  map[string]float64       // that were measured, in seconds
	sites   []*site                  // that were opened
}

// newLab lays out a lab in a directory for what is kept and one for what isn't.
func newLab(repo, cache, scratch, programs string, log io.Writer) (*lab, error) {
	l := &lab{
		repo: repo, cache: cache, scratch: scratch, programs: programs, log: log,
		nix:     filepath.Join(repo, ".cache", "nix", "current", "bin"),
		keyFile: filepath.Join(scratch, "key"),
		systems: map[string]nix.StorePath{},
		limits:  map[string]float64{},
	}
	secret, public, err := signature.GenerateKeypair("bench.example.org-1", nil)
	if err != nil {
		return nil, err
	}
	l.secretKey, l.publicKey = secret.String(), public.String()
	conf := "sandbox = true\nsandbox-paths = " + l.debian("trees") + "\nbuild-users-group =\nsubstituters =\ntrusted-public-keys = " + l.publicKey +
		"\nexperimental-features = nix-command\n"
	return l, errors.Join(
		os.MkdirAll(cache, 0o755),
		os.Mkdir(filepath.Join(scratch, "sources"), 0o755),
		os.WriteFile(l.keyFile, []byte(l.secretKey), 0o600),
		os.WriteFile(filepath.Join(scratch, "nix.conf"), []byte(conf), 0o644))
}

// get gets what is compared, and what that takes.
func (l *lab) get(ctx context.Context) error {
	fmt.Fprintln(l.log, "getting Nix, the servers and our programs, which takes some minutes the first time")
	for _, step := range [][]string{
		{"ci/get", "current", "busybox", "zstd"},
		{"ci/servers/build", versitygw, minio},
		{"make", "--quiet", "--no-print-directory", "bin/linux-" + runtime.GOARCH},
		{"go", "build", "-o", filepath.Join(l.cache, "debian-closure"), "./ci/debian-closure"},
	} {
		if err := l.run(ctx, nil, step...); err != nil {
			return err
		}
	}
	return nil
}

// run runs what is not measured.
func (l *lab) run(ctx context.Context, env []string, args ...string) error {
	_, err := l.output(ctx, env, args...)
	return err
}

// output is run that returns what was printed.
func (l *lab) output(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = l.repo, env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("running %s: %w\n%s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(string(out)), nil
}

// env is the environment of a Nix, and of whoever runs one, with that store
// and an empty cache of its own, as it would otherwise send nothing a second
// time.
func (l *lab) env(store string) ([]string, error) {
	home, err := os.MkdirTemp(l.scratch, "home-")
	if err != nil {
		return nil, err
	}
	return []string{
		"PATH=" + l.nix + string(filepath.ListSeparator) + os.Getenv("PATH"),
		"HOME=" + home,
		"XDG_CACHE_HOME=" + home,
		"NIX_CONF_DIR=" + l.scratch,
		"NIX_REMOTE=" + store,
		"AWS_EC2_METADATA_DISABLED=true",
	}, nil
}

// A closure is what is pushed, and the directory of the store that has it.
type closure struct {
	root  nix.StorePath
	store string
}

// An origin makes a closure, or knows that it is there.
type origin func(context.Context) (closure, error)

// debian is a file of what the Debian closures are built from.
func (l *lab) debian(name string) string { return filepath.Join(l.cache, "debian", name) }

// system builds the Debian system, or one that differs by other paths of a
// package and of all that depend on it.
func (l *lab) system(ctx context.Context, bump string, salt int) (closure, error) {
	name, store := fmt.Sprintf("%s-%d", bump, salt), filepath.Join(l.cache, "store")
	if path, ok := l.systems[name]; ok {
		return closure{path, store}, nil
	}
	fmt.Fprintln(l.log, "  building the Debian system", bump)
	generate := []string{filepath.Join(l.cache, "debian-closure")}
	if bump != "" {
		generate = append(generate, "-bump", bump, "-salt", strconv.Itoa(salt))
	}
	if err := l.run(ctx, nil, append(generate, l.debian(""))...); err != nil {
		return closure{}, err
	}
	env, err := l.env(store)
	if err != nil {
		return closure{}, err
	}
	out, err := l.output(ctx, env, filepath.Join(l.nix, "nix-build"), "--no-out-link", l.debian("default.nix"))
	if err != nil {
		return closure{}, err
	}
	l.systems[name], err = nix.ParseStorePath(out)
	return closure{l.systems[name], store}, err
}

// made is the origin of a synthetic closure, which is kept.
func (l *lab) made(c synthetic) origin {
	return func(ctx context.Context) (closure, error) {
		store := filepath.Join(l.cache, c.name)
		if _, err := os.Stat(store); err == nil {
			root, err := c.path(0)
			return closure{root, store}, err
		}
		fmt.Fprintln(l.log, "  making the closure", c.name)
		partial := store + ".partial"
		if err := os.RemoveAll(partial); err != nil {
			return closure{}, err
		}
		root, err := c.write(ctx, partial)
		if err != nil {
			return closure{}, err
		}
		return closure{root, store}, os.Rename(partial, store)
	}
}

// server is the path of a server's program.
func (l *lab) server(name string) string { return filepath.Join(l.repo, ".cache", "servers", name) }

// close closes the sites that are still open.
func (l *lab) close() {
	for _, s := range l.sites {
		s.close()
	}
}

// removeTree removes a tree with directories that can't be written to, as Nix
// has them.
func removeTree(dir string) error {
	filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() {
			os.Chmod(path, 0o755)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
