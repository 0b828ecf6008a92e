package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// query runs nix with the first of the argument lists that it understands, and
// returns what it has printed.
func (s *Store) query(ctx context.Context, alternatives [][]string) ([]byte, error) {
	var err error
	for _, args := range alternatives {
		var out []byte
		if out, err = s.runQuery(ctx, args); err == nil {
			return out, nil
		}
		var failure *queryError
		if !errors.As(err, &failure) || !failure.unknown() {
			return nil, err
		}
	}
	return nil, err
}

func (s *Store) runQuery(ctx context.Context, args []string) ([]byte, error) {
	// Offline: asked for a path that it hasn't got, Nix would look for it elsewhere.
	args = append([]string{"--extra-experimental-features", "nix-command", "--offline"}, args...)
	var stdout bytes.Buffer
	var stderr tail
	err := s.runTo(ctx, toAsk, &stdout, &stderr, "nix", args...)
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

const tailSize = 32 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-tailSize):]
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.b)) }
