package nixstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Options say how a Store is used.
type Options struct {
	Log io.Writer // what builds say, as it comes; nil to drop it
}

// A Store is the store that the Nix on PATH uses, be it by itself, through its
// daemon, or below a directory, as NIX_REMOTE and nix.conf say. All methods may
// be called from several goroutines.
type Store struct {
	log     io.Writer
	realDir string // where the files of nix.StoreDir are
}

// Open finds Nix, and asks it for its store. Any version from 2.8 on will do.
func Open(ctx context.Context, o Options) (*Store, error) {
	if _, err := exec.LookPath("nix"); err != nil {
		return nil, hint.With(errors.New("there is no nix on PATH"),
			"building, and reading a closure from a local store, needs Nix: use an image that has it")
	}
	out, err := query(ctx, [][]string{{"config", "show", "--json"}, {"show-config", "--json"}})
	if err != nil {
		return nil, fmt.Errorf("asking Nix for its settings: %w", err)
	}
	var settings struct {
		Store struct{ Value string }
	}
	if err := json.Unmarshal(out, &settings); err != nil {
		return nil, fmt.Errorf("reading Nix's settings: %w", err)
	}
	realDir, err := realStoreDir(settings.Store.Value)
	if err != nil {
		return nil, hint.With(fmt.Errorf("the store %q that Nix is to use: %w", settings.Store.Value, err),
			"set NIX_REMOTE to daemon, local, or the directory of a store")
	}
	return &Store{o.Log, realDir}, nil
}

// RealPath is where the files of a path are, whether it is there or not.
func (s *Store) RealPath(path nix.StorePath) string { return s.realDir + "/" + path.Base() }

// DumpNAR writes the NAR of a path.
func (s *Store) DumpNAR(ctx context.Context, path nix.StorePath, w io.Writer) error {
	if err := nar.Dump(contextWriter{ctx, w}, s.RealPath(path)); err != nil {
		return fmt.Errorf("reading %s from the local store: %w", path, err)
	}
	return nil
}

// A contextWriter fails when its context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// query runs nix with the first of the argument lists that it understands, and
// returns what it has printed.
func query(ctx context.Context, alternatives [][]string) ([]byte, error) {
	var err error
	for _, args := range alternatives {
		var out []byte
		if out, err = runQuery(ctx, args); err == nil {
			return out, nil
		}
		var failure *queryError
		if !errors.As(err, &failure) || !failure.unknown() {
			return nil, err
		}
	}
	return nil, err
}

func runQuery(ctx context.Context, args []string) ([]byte, error) {
	// Offline: asked for a path that it hasn't got, Nix would look for it elsewhere.
	args = append([]string{"--extra-experimental-features", "nix-command", "--offline"}, args...)
	var stdout bytes.Buffer
	var stderr tail
	err := run(ctx, &stdout, &stderr, "nix", args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, &queryError{strings.Join(args[3:], " "), exit, stderr.String()}
	}
	return stdout.Bytes(), err
}

// A queryError is what Nix said before it failed.
type queryError struct {
	args   string
	exit   *exec.ExitError
	stderr string
}

func (e *queryError) Error() string {
	message := e.stderr[max(0, strings.LastIndex(e.stderr, "error:")):] // without warnings
	return fmt.Sprintf("nix %s (%s): %s", e.args, e.exit, message)
}

// unknown says whether this version of Nix doesn't know the command or a flag.
func (e *queryError) unknown() bool {
	return strings.Contains(e.stderr, "is not a recognised command") || strings.Contains(e.stderr, "unrecognised flag")
}

// A tail keeps the end of what is written to it.
type tail struct{ b []byte }

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-tailSize):]
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.b)) }
