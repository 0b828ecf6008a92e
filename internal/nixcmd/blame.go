package nixcmd

import (
	"bytes"
	"context"
	"slices"
	"strings"
)

// Blame is what a failure to build many derivations together is for one of them:
// those failures that it depends on.
func (s *Store) Blame(ctx context.Context, failure *BuildError, d Derivation) (reason error, err error) {
	var stdout bytes.Buffer
	if err := s.run(ctx, &stdout, s.log, "nix-store", "--query", "--requisites", d.Path.String()); err != nil {
		return nil, err
	}
	needed := strings.Fields(stdout.String())
	about := &BuildError{Missing: []Derivation{d}, message: failure.message}
	for _, f := range failure.Failed {
		if slices.Contains(needed, f.Derivation.String()) {
			about.Failed = append(about.Failed, f)
		}
	}
	return about.advised(), nil
}
