package nixstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// An Expression is something to build.
type Expression struct {
	File      string // of Nix, or the directory of a default.nix
	Attribute string // in what the file evaluates to; empty for the whole
}

func (e Expression) String() string {
	if e.Attribute == "" {
		return e.File
	}
	return e.Attribute + " of " + e.File
}

// Build evaluates and builds the expression, as nix-build does, and returns the
// one path that it makes. What Nix says goes to the log as it comes.
func (s *Store) Build(ctx context.Context, e Expression) (nix.StorePath, error) {
	args := []string{"--no-out-link", e.File}
	if e.Attribute != "" {
		args = append(args, "--attr", e.Attribute)
	}
	log := s.log
	if log == nil {
		log = io.Discard
	}
	var stdout bytes.Buffer
	if err := run(ctx, &stdout, log, "nix-build", args...); err != nil {
		return nix.StorePath{}, buildError(e, err)
	}

	outputs := strings.Fields(stdout.String())
	switch len(outputs) {
	case 0:
		return nix.StorePath{}, hint.With(fmt.Errorf("%s is not a derivation, and holds none", e),
			"name an attribute that is one, such as config.system.build.toplevel")
	case 1:
		path, err := nix.ParseStorePath(outputs[0])
		if err != nil {
			return nix.StorePath{}, fmt.Errorf("building %s: %w", e, err)
		}
		return path, nil
	}
	return nix.StorePath{}, hint.With(fmt.Errorf("%s makes %d paths, where one is wanted: %s", e, len(outputs), strings.Join(outputs, ", ")),
		"name one derivation, and one output of it, by an attribute")
}

// buildError says what has failed. Of nix-build's exit statuses, those from 100
// on are for builds, and the rest is for what comes before them.
func buildError(e Expression, err error) error {
	var exit *exec.ExitError
	switch {
	case !errors.As(err, &exit):
		return fmt.Errorf("building %s: %w", e, err)
	case exit.ExitCode() >= 100:
		return fmt.Errorf("the build of %s has failed (nix-build: %w); the reason is in the log above", e, err)
	}
	return fmt.Errorf("%s can't be evaluated or built (nix-build: %w); the reason is in the log above", e, err)
}
