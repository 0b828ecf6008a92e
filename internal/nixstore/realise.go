package nixstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Realise makes the outputs of derivations valid in the store, all together:
// Nix takes them from its substituters or builds them. Nothing is evaluated.
// What Nix and the builders say goes to the log as it comes.
//
// The paths are in the order of the derivations. One that fails doesn't stop
// the others: then the error wraps a *BuildError, and the path of each that failed
// is zero.
func (s *Store) Realise(ctx context.Context, derivations ...Derivation) ([]nix.StorePath, error) {
	args := []string{"--realise", "--keep-going", "--log-format", "internal-json"}
	for _, d := range derivations {
		args = append(args, d.Path.String()+"!"+d.Output)
	}
	var stdout bytes.Buffer
	log := newBuildLog(s.log)
	err := s.run(ctx, &stdout, log, "nix-store", args...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return realised(derivations, stdout.String())
	case !errors.As(err, &exit):
		return nil, fmt.Errorf("building %s: %w", list(derivations), err)
	}
	paths := make([]nix.StorePath, len(derivations))
	if len(derivations) > 1 {
		for i, d := range derivations {
			if paths[i], err = s.madeAnyhow(ctx, d); err != nil {
				return nil, err
			}
		}
	}
	failure := &BuildError{Failed: log.failed(), message: log.message()}
	for i, d := range derivations {
		if paths[i].IsZero() {
			failure.Missing = append(failure.Missing, d)
		}
	}
	if log.diskFull {
		return paths, hint.With(failure, "the disk of the Nix store is full: that of a put is its worker's")
	}
	return paths, failure
}

// realised are the paths that nix-store --realise has printed.
func realised(derivations []Derivation, printed string) ([]nix.StorePath, error) {
	lines := strings.Fields(printed)
	if len(lines) != len(derivations) {
		return nil, fmt.Errorf("building %s: Nix printed %d paths, where %d are wanted", list(derivations), len(lines), len(derivations))
	}
	paths := make([]nix.StorePath, len(lines))
	for i, line := range lines {
		var err error
		if paths[i], err = nix.ParseStorePath(line); err != nil {
			return nil, fmt.Errorf("building %s: %w", list(derivations), err)
		}
	}
	return paths, nil
}

// madeAnyhow returns the path of an output that may have been made although
// others failed, or zero.
func (s *Store) madeAnyhow(ctx context.Context, d Derivation) (nix.StorePath, error) {
	var stdout bytes.Buffer
	args := []string{"--realise", "--option", "substitute", "false", "--option", "max-jobs", "0", "--option", "builders", ""} // building nothing
	err := s.run(ctx, &stdout, nil, "nix-store", append(args, d.Path.String()+"!"+d.Output)...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nix.StorePath{}, nil
	}
	if err != nil {
		return nix.StorePath{}, err
	}
	paths, err := realised([]Derivation{d}, stdout.String())
	if err != nil {
		return nix.StorePath{}, err
	}
	return paths[0], nil
}

// A BuildError says what could not be built.
type BuildError struct {
	Missing []Derivation // those that were asked for, and aren't there
	Failed  []Failure    // the derivations that this is due to, as far as Nix says

	message string // Nix's own, which says what there is to say if none failed
}

// A Failure is that of one derivation, itself asked for or not.
type Failure struct {
	Derivation nix.StorePath
	Reason     string   // such as: builder failed with exit code 1
	LastLines  []string // of its log
}

func (e *BuildError) Error() string {
	if len(e.Failed) == 0 {
		return fmt.Sprintf("%s can't be built: %s", list(e.Missing), e.message)
	}
	text := make([]string, len(e.Failed))
	for i, f := range e.Failed {
		text[i] = fmt.Sprintf("%s can't be built: %s", f.Derivation, f.Reason)
	}
	return strings.Join(text, "\n")
}

// list names derivations for a person.
func list(derivations []Derivation) string {
	names := make([]string, len(derivations))
	for i, d := range derivations {
		names[i] = d.Path.String()
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
