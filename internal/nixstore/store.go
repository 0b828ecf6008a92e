package nixstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Options say how a Store is used.
type Options struct {
	Log io.Writer // what evaluations and builds say, as it comes; nil to drop it
}

// A Store is the store that the Nix on PATH uses, be it by itself, through its
// daemon, or below a directory, as NIX_REMOTE and nix.conf say. All methods may
// be called from several goroutines.
type Store struct {
	log     io.Writer
	realDir string   // where the files of nix.StoreDir are
	env     []string // what Nix gets besides what environment picks
	locks   *lockChecks
}

// Open finds Nix, and asks it for its store. Any version from 2.8 on will do.
func Open(ctx context.Context, o Options) (*Store, error) {
	if _, err := exec.LookPath("nix"); err != nil {
		return nil, hint.With(errors.New("there is no nix on PATH"),
			"building, and reading a closure from a local store, needs Nix: use an image that has it")
	}
	s := &Store{log: o.Log, locks: &lockChecks{made: map[string]func() error{}}}
	if s.log == nil {
		s.log = io.Discard
	}
	out, err := s.query(ctx, [][]string{{"config", "show", "--json"}, {"show-config", "--json"}})
	if err != nil {
		return nil, fmt.Errorf("asking Nix for its settings: %w", err)
	}
	var settings struct {
		Store struct{ Value string }
	}
	if err := json.Unmarshal(out, &settings); err != nil {
		return nil, fmt.Errorf("reading Nix's settings: %w", err)
	}
	if s.realDir, err = realStoreDir(settings.Store.Value); err != nil {
		return nil, hint.With(fmt.Errorf("the store %q that Nix is to use: %w", settings.Store.Value, err),
			"set NIX_REMOTE to daemon, local, or the directory of a store")
	}
	return s, nil
}

// run runs one of Nix's programs on this store, as run does.
func (s *Store) run(ctx context.Context, stdout, stderr io.Writer, program string, args ...string) error {
	return run(ctx, s.env, stdout, stderr, program, args...)
}

// runEvaluation runs one that evaluates, which may have to fetch sources.
func (s *Store) runEvaluation(ctx context.Context, stdout, stderr io.Writer, program string, args ...string) error {
	return s.run(ctx, stdout, stderr, program, args...)
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
