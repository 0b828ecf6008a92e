package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
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
	run := s.run
	if s.remote != nil {
		if done, err := s.sendDerivations(ctx, derivations); done != nil || err != nil {
			return done, err
		}
		args = append(args, "--store", s.remote.url)
		run = s.runThere
	}
	for _, d := range derivations {
		args = append(args, d.Path.String()+"!"+d.Output)
	}
	var stdout bytes.Buffer
	log := newBuildLog(s.log)
	err := run(ctx, &stdout, log, "nix-store", args...)
	s.built.add(log.begun)
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
	err = failure
	if log.diskFull {
		return paths, hint.With(err, "the disk of the Nix store is full; in Concourse, that is the worker's")
	}
	if s.settings.logsIn(toBuild) && len(log.unreached) > 0 {
		return paths, hint.With(err, "machines among builders can't be reached: %s", strings.Join(log.unreached, "; "))
	}
	return paths, err
}

// sendDerivations makes derivations known to a remote store, where they are to be
// realised, unless that has all that they make: those are the paths then.
func (s *Store) sendDerivations(ctx context.Context, derivations []Derivation) (made []nix.StorePath, err error) {
	for _, d := range derivations {
		if d.OutPath.IsZero() {
			made = nil
			break
		}
		made = append(made, d.OutPath)
	}
	if len(made) > 0 {
		if has, err := s.remote.has(ctx, made...); has || err != nil {
			return made, err
		}
	}
	args := []string{"--extra-experimental-features", "nix-command", "copy", "--derivation", "--to", s.remote.url}
	for _, d := range derivations {
		args = append(args, d.Path.String())
	}
	var said tail
	if err := s.runThere(ctx, nil, &said, "nix", args...); err != nil {
		if ctx.Err() == nil {
			message, _ := lastError(said.String())
			err = fmt.Errorf("sending %s to %s: %s (nix: %w)", list(derivations), s.remote.name, message, err)
		}
		return nil, err
	}
	return nil, nil
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
	if s.remote != nil {
		if d.OutPath.IsZero() {
			return nix.StorePath{}, nil
		}
		has, err := s.remote.has(ctx, d.OutPath)
		if !has || err != nil {
			return nix.StorePath{}, err
		}
		return d.OutPath, nil
	}
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
	LastLines  []string // of its log, unless they were passed on just before the end
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

// Quotes are the ends of the logs of what has failed, by what they are.
func (e *BuildError) Quotes() iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		for _, f := range e.Failed {
			if len(f.LastLines) > 0 && !yield("the log of "+f.Derivation.Name()+" ends:", f.LastLines) {
				return
			}
		}
	}
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
