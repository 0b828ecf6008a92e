package nixtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Store is a Nix store of a test's own, in a directory: its logical place is
// /nix/store, as everywhere, and its files are below Dir. It has settings and
// caches of its own too, so that nothing of the machine's shows in it.
type Store struct {
	Nix *Nix
	Dir string // what NIX_REMOTE says

	home string // of the user, settings included
}

// NewStore makes an empty store that is removed when the test ends. It builds
// in Nix's sandbox, knows no caches, and wants signatures as every Nix does.
func (n *Nix) NewStore(t testing.TB) *Store {
	t.Helper()
	return n.OpenStore(t, filepath.Join(TempDir(t), "root"))
}

// OpenStore is the store, made by anybody, whose files are below dir; its
// settings are those of NewStore.
func (n *Nix) OpenStore(t testing.TB, dir string) *Store {
	t.Helper()
	s := &Store{Nix: n, Dir: dir, home: t.TempDir()}
	s.Configure(t, n.conf+`sandbox = true
sandbox-paths =
build-users-group =
substituters =
fsync-metadata = false
`)
	return s
}

// Configure adds lines to the store's nix.conf.
func (s *Store) Configure(t testing.TB, lines string) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(s.home, "nix.conf"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintln(file, lines)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

// Env is the environment in which this Nix, on PATH, uses this store.
func (s *Store) Env() []string {
	var env []string
	for name, value := range s.variables() {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// Setenv makes Env this process's environment until the test ends, for code
// under test that runs Nix itself.
func (s *Store) Setenv(t *testing.T) {
	t.Helper()
	for name, value := range s.variables() {
		t.Setenv(name, value)
	}
}

func (s *Store) variables() map[string]string {
	return map[string]string{
		"PATH":                s.Nix.bin + string(filepath.ListSeparator) + os.Getenv("PATH"),
		"HOME":                s.home,
		"NIX_CONF_DIR":        s.home,
		"NIX_USER_CONF_FILES": "",
		"NIX_CONFIG":          "",
		"NIX_PATH":            "",
		"NIX_REMOTE":          s.Dir,
		"XDG_CACHE_HOME":      filepath.Join(s.home, "cache"),
		"XDG_CONFIG_HOME":     filepath.Join(s.home, "config"),
		"XDG_STATE_HOME":      filepath.Join(s.home, "state"),
		"NO_COLOR":            "1",
	}
}

// Run runs one of Nix's programs, and returns what it printed, without the
// white space around it. The test ends if it fails.
func (s *Store) Run(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := s.Try(program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try is Run that returns the failure, with what the program said of it.
func (s *Store) Try(program string, args ...string) (string, error) {
	return s.try(nil, program, args...)
}

// Load makes paths valid whose files are there, as a registration has it.
func (s *Store) Load(t testing.TB, registration string) {
	t.Helper()
	file, err := os.Open(registration)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := s.try(file, "nix-store", "--load-db"); err != nil {
		t.Fatal(err)
	}
}

func (s *Store) try(stdin io.Reader, program string, args ...string) (string, error) {
	if program == "nix" {
		args = append([]string{"--extra-experimental-features", "nix-command"}, args...)
	}
	cmd := exec.Command(filepath.Join(s.Nix.bin, program), args...)
	cmd.Env, cmd.Dir = s.Env(), s.home
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s (Nix %s): %w\n%s", program, strings.Join(args, " "), s.Nix.Version, err, stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// Build builds an attribute of an expression in a file.
func (s *Store) Build(t testing.TB, file, attribute string) nix.StorePath {
	t.Helper()
	return s.path(t, s.Run(t, "nix-build", "--no-out-link", file, "--attr", attribute))
}

// RealPath is where the files of a path are.
func (s *Store) RealPath(path nix.StorePath) string { return filepath.Join(s.Dir, path.String()) }

// Closure is what Nix knows of a path and of all that it references, sorted by
// path.
func (s *Store) Closure(t testing.TB, root nix.StorePath) []nix.PathInfo {
	t.Helper()
	return s.pathInfos(t, "--recursive", root.String())
}

// All is what Nix knows of all the paths of the store, sorted by path.
func (s *Store) All(t testing.TB) []nix.PathInfo {
	t.Helper()
	return s.pathInfos(t, "--all")
}

func (s *Store) pathInfos(t testing.TB, args ...string) []nix.PathInfo {
	t.Helper()
	out := s.Run(t, "nix", slices.Concat([]string{"path-info", "--json"}, s.Nix.json, args)...)

	type info struct {
		Path             string
		NarHash          nix.Hash
		NarSize          int64
		References       []nix.StorePath
		Deriver          nix.StorePath
		CA               string
		Signatures       []string
		RegistrationTime int64
	}
	var infos []info
	if strings.HasPrefix(out, "{") { // since 2.19: keyed by path
		byPath := map[string]info{}
		if err := json.Unmarshal([]byte(out), &byPath); err != nil {
			t.Fatalf("reading what nix path-info printed: %v", err)
		}
		for path, info := range byPath {
			info.Path = path
			infos = append(infos, info)
		}
	} else if err := json.Unmarshal([]byte(out), &infos); err != nil {
		t.Fatalf("reading what nix path-info printed: %v", err)
	}

	var result []nix.PathInfo
	for _, info := range infos {
		if info.RegistrationTime == 0 {
			t.Fatalf("%s is not valid in %s", info.Path, s.Dir)
		}
		pathInfo := nix.PathInfo{
			Path: s.path(t, info.Path), NarHash: info.NarHash, NarSize: info.NarSize,
			References: nix.SortPaths(info.References), Deriver: info.Deriver,
		}
		var err error
		if pathInfo.CA, err = nix.ParseContentAddress(info.CA); err != nil {
			t.Fatal(err)
		}
		for _, text := range info.Signatures {
			sig, err := nix.ParseSignature(text)
			if err != nil {
				t.Fatal(err)
			}
			pathInfo.Signatures = append(pathInfo.Signatures, sig)
		}
		result = append(result, pathInfo)
	}
	slices.SortFunc(result, func(a, b nix.PathInfo) int { return a.Path.Compare(b.Path) })
	return result
}

func (s *Store) path(t testing.TB, text string) nix.StorePath {
	t.Helper()
	path, err := nix.ParseStorePath(text)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TempDir is t.TempDir for trees with directories that can't be written to, as
// Nix has them: it makes them removable before they are removed.
func TempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if entry != nil && entry.IsDir() {
				os.Chmod(path, 0o755)
			}
			return nil
		})
	})
	return dir
}

func Sign(t testing.TB, store *Store, root nix.StorePath, keys ...Key) {
	t.Helper()
	for _, key := range keys {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(key.Secret), 0o600); err != nil {
			t.Fatal(err)
		}
		store.Run(t, "nix", "store", "sign", "--recursive", "--key-file", file, root.String())
	}
}
