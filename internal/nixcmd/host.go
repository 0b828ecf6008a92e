package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Invalid returns those of paths that the store doesn't have, in their order.
func (s *Store) Invalid(ctx context.Context, paths ...nix.StorePath) ([]nix.StorePath, error) {
	const atOnce = 1000 // about 100 KiB of arguments
	var invalid []nix.StorePath
	for chunk := range slices.Chunk(paths, atOnce) {
		args := []string{"--check-validity", "--print-invalid"}
		for _, path := range chunk {
			args = append(args, path.String())
		}
		var stdout bytes.Buffer
		if err := s.runNix(ctx, toAsk, &stdout, "nix-store", args...); err != nil {
			return nil, fmt.Errorf("asking Nix which paths it has: %w", err)
		}
		for _, line := range strings.Fields(stdout.String()) {
			path, err := nix.ParseStorePath(line)
			if err != nil {
				return nil, fmt.Errorf("asking Nix which paths it has: %w", err)
			}
			invalid = append(invalid, path)
		}
	}
	return invalid, nil
}

// Substitute makes the closure of a path valid in the store. Nix takes it from
// the substituters of Settings and the machine's own, and verifies it; nothing
// is built.
func (s *Store) Substitute(ctx context.Context, path nix.StorePath) error {
	err := s.runNix(ctx, toFetch, nil, "nix-store", "--realise", path.String(),
		"--option", "narinfo-cache-negative-ttl", "0") // what was not there a minute ago, may be now
	if err != nil {
		return fmt.Errorf("fetching %s: %w", path, err)
	}
	return nil
}

// SetProfile makes a path, which is valid, the newest generation of a profile,
// unless it is. It needs no network.
func (s *Store) SetProfile(ctx context.Context, profile string, path nix.StorePath) error {
	err := s.runNix(ctx, toAsk, nil, "nix", "--extra-experimental-features", "nix-command", "--offline",
		"build", "--no-link", "--profile", profile, path.String())
	if err != nil {
		return fmt.Errorf("setting the profile %s to %s: %w", profile, path, err)
	}
	return nil
}

// runNix runs one of Nix's programs that neither builds nor evaluates. What it
// says goes to the log, and why it failed into the error.
func (s *Store) runNix(ctx context.Context, why purpose, stdout io.Writer, program string, args ...string) error {
	var said tail
	err := s.runTo(ctx, why, stdout, io.MultiWriter(s.log, &said), program, args...)
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		message, _ := lastError(said.String())
		return fmt.Errorf("%s (%s: %w)", message, program, exit)
	}
	return err
}
