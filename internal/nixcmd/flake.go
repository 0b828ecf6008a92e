package nixcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/regular"
	"github.com/nixos-closure/nixos-closure-resource/internal/tempdir"
)

// lockChecks are those that were made, by the flakes: several hosts come from one.
type lockChecks struct {
	mu   sync.Mutex
	made map[string]func() error
}

// checkLock refuses a flake whose lock file would have to be written. Evaluate
// lets Nix refuse that, too, but Nix fetches what isn't locked first, and doesn't
// look at all where an input is overridden.
func (s *Store) checkLock(ctx context.Context, i Installable) error {
	key := fmt.Sprint(i.Flake, len(i.OverrideInputs) > 0)
	s.locks.mu.Lock()
	check, ok := s.locks.made[key]
	if !ok {
		check = sync.OnceValue(func() error { return s.checkLockNow(ctx, i) })
		s.locks.made[key] = check
	}
	s.locks.mu.Unlock()
	return check()
}

func (s *Store) checkLockNow(ctx context.Context, i Installable) error {
	if dir := i.flakeDir(); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "flake.lock")); errors.Is(err, fs.ErrNotExist) {
			inputs, err := s.flakeInputs(ctx, dir)
			if err != nil {
				return fmt.Errorf("the flake %s can't be evaluated: %w", i.name(), err)
			}
			if len(inputs) > 0 {
				return hint.With(fmt.Errorf("the flake %s has inputs (%s), but no flake.lock", i.name(), hint.Few(inputs)), lockAdvice)
			}
		}
	}
	if len(i.OverrideInputs) == 0 {
		return nil
	}
	var said tail
	err := s.runEvaluation(ctx, nil, io.MultiWriter(s.log, &said), "nix",
		"--extra-experimental-features", "nix-command flakes", "flake", "metadata", "--json", "--no-update-lock-file", "--", i.Flake)
	if err != nil && lockChanges.MatchString(said.String()) {
		return unfitLock(i)
	}
	if err != nil {
		return evaluationError(i, said.String(), err)
	}
	return nil
}

// lockChanges finds what Nix says of a lock file that it would have to change:
// that it may not, for a flake here and elsewhere, or that it has failed to fetch
// an input that isn't locked.
var lockChanges = regexp.MustCompile(`error: .*requires lock file changes but|error: .*cannot write modified lock file|while updating the flake input '`)

func unfitLock(i Installable) error {
	return hint.With(fmt.Errorf("the flake.lock of %s doesn't fit its flake.nix", i.name()), lockAdvice)
}

const lockAdvice = "a put never writes a lock file: run nix flake lock where the flake is developed, and commit flake.lock"

// flakeInputs names the inputs of a flake in a directory.
func (s *Store) flakeInputs(ctx context.Context, dir string) ([]string, error) {
	const inputs = `flake: builtins.filter (name: name != "self")
		(builtins.attrNames ((flake.inputs or { }) // builtins.functionArgs (flake.outputs or (_: { }))))`
	var stdout bytes.Buffer
	var said tail
	// To Nix that is a file, which may look at the machine.
	err := s.runTo(ctx, toAsk, &stdout, &said, "nix",
		"--extra-experimental-features", "nix-command", "eval", "--json", "--apply", inputs, "--file", filepath.Join(dir, "flake.nix"), "--", "")
	if err != nil {
		if message, _ := lastError(said.String()); message != "" {
			err = errors.New(message)
		}
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(stdout.Bytes(), &names); err != nil {
		return nil, fmt.Errorf("what nix eval printed: %w", err)
	}
	return names, nil
}

// flakeDir is the directory that the flake lies in; "" if it isn't on this
// machine, or Nix is to find it.
func (i Installable) flakeDir() string {
	dir, query, _ := strings.Cut(i.Flake, "?")
	if !filepath.IsAbs(dir) {
		return ""
	}
	params, _ := url.ParseQuery(query)
	return filepath.Join(dir, params.Get("dir"))
}

// trusting returns the same store for Nix to evaluate i with. It opens the git
// checkouts that i lies in although other users own them, as Concourse's are:
// git refuses that, both as a program and as a library, unless one of the user's
// settings names the directory. Call close in the end.
func (s *Store) trusting(i Installable) (_ *Store, close func(), err error) {
	var foreign []string
	for _, name := range slices.AppendSeq([]string{i.File, i.Flake}, maps.Values(i.OverrideInputs)) {
		dir, _, _ := strings.Cut(name, "?")
		if !filepath.IsAbs(dir) {
			continue
		}
		if top := foreignCheckout(dir); top != "" {
			foreign = append(foreign, repositories(top)...)
		}
	}
	if len(foreign) == 0 {
		return s, func() {}, nil
	}
	config, err := tempdir.New("config")
	if err != nil {
		return nil, nil, err
	}
	if err := writeGitConfig(config.Path(), foreign); err != nil {
		config.Remove()
		return nil, nil, fmt.Errorf("letting git open %s: %w", strings.Join(foreign, ", "), err)
	}
	trusting := *s
	trusting.env = append(s.env[:len(s.env):len(s.env)], "XDG_CONFIG_HOME="+config.Path())
	return &trusting, func() { config.Remove() }, nil
}

// foreignCheckout returns the top of the git checkout that a file or directory
// lies in, if that belongs to another user; else "". The checkout must belong to
// whom the file itself does: one further up, of somebody else's, may be a trap.
func foreignCheckout(name string) string {
	owner, err := ownerOf(name)
	if err != nil || owner == os.Geteuid() {
		return ""
	}
	for dir := name; ; dir = filepath.Dir(dir) {
		of, err := ownerOf(dir)
		if err != nil || of != owner {
			return ""
		}
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

// maxRepositories bounds how many submodules a checkout may have, in all, and
// maxModulesFile the file that lists those of one, in bytes.
const (
	maxRepositories = 1000
	maxModulesFile  = 1 << 20
)

// repositories are what git wants to hear of a checkout: its directory, that of
// its .git, from which Nix 2.8 clones, and the same of its submodules, and of theirs.
func repositories(checkout string) []string {
	var found []string
	for left := []string{checkout}; len(left) > 0 && len(found) < 2*maxRepositories; left = left[1:] {
		dir := left[0]
		found = append(found, dir, filepath.Join(dir, ".git"))
		modules, err := regular.ReadNamed(filepath.Join(dir, ".gitmodules"), maxModulesFile)
		if err != nil { // most often, there are none
			continue
		}
		for _, path := range submodulePath.FindAllStringSubmatch(string(modules), -1) {
			if filepath.IsLocal(path[1]) && path[1] != "." {
				left = append(left, filepath.Join(dir, path[1]))
			}
		}
	}
	return found
}

var submodulePath = regexp.MustCompile(`(?m)^\s*path\s*=\s*(.*?)\s*$`)

func ownerOf(name string) (uid int, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return int(info.Sys().(*syscall.Stat_t).Uid), nil
}

// writeGitConfig makes a directory one for XDG_CONFIG_HOME: all as in the user's
// own, but for git, which trusts further directories. (The environment variables
// that git has for settings don't reach the library, which Nix has used since 2.20.)
func writeGitConfig(config string, trusted []string) error {
	own := os.Getenv("XDG_CONFIG_HOME")
	if own == "" {
		own = filepath.Join(os.Getenv("HOME"), ".config")
	}
	var text strings.Builder
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	fmt.Fprintf(&text, "[include]\n\tpath = \"%s\"\n[safe]\n", escape.Replace(filepath.Join(own, "git", "config")))
	for _, dir := range trusted {
		fmt.Fprintf(&text, "\tdirectory = \"%s\"\n", escape.Replace(dir))
	}
	entries, err := os.ReadDir(own)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if entry.Name() != "git" {
			err = errors.Join(err, os.Symlink(filepath.Join(own, entry.Name()), filepath.Join(config, entry.Name())))
		}
	}
	dir := filepath.Join(config, "git")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config"), []byte(text.String()), 0o644)
}
