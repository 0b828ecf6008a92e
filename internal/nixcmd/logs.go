package nixcmd

import (
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// builds are the derivations that were built, or begun, one after the other.
type builds struct {
	mu          sync.Mutex
	derivations []nix.StorePath
}

func (b *builds) add(derivations []nix.StorePath) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.derivations = append(b.derivations, derivations...)
}

// Built are the derivations whose build Realise has begun since it was last
// asked, be it here or on one of Nix's builders.
func (s *Store) Built() []nix.StorePath {
	s.built.mu.Lock()
	defer s.built.mu.Unlock()
	derivations := s.built.derivations
	s.built.derivations = nil
	return nix.SortPaths(slices.Clone(derivations))
}

// OpenLog opens the log of a derivation that was built, as text. If there is
// none, the error is fs.ErrNotExist: what is built in a remote store has its log
// there.
func (s *Store) OpenLog(derivation nix.StorePath) (io.ReadCloser, error) {
	if s.remote != nil {
		return nil, fmt.Errorf("the log of %s is where it was built: %w", derivation, fs.ErrNotExist)
	}
	name := filepath.Join(s.logDir(), "drvs", derivation.Base()[:2], derivation.Base()[2:])
	f, err := os.Open(name + ".bz2") // unless compress-build-log says otherwise
	if err == nil {
		return struct {
			io.Reader
			io.Closer
		}{bzip2.NewReader(f), f}, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(name)
	}
	return f, err
}

// logDir is where the store keeps logs (Nix, src/libstore/local-fs-store.hh).
func (s *Store) logDir() string {
	if root, ok := strings.CutSuffix(s.realDir, nix.StoreDir); ok && root != "" {
		return filepath.Join(root, "nix", "var", "log", "nix")
	}
	if dir := os.Getenv("NIX_LOG_DIR"); dir != "" {
		return dir
	}
	return "/nix/var/log/nix"
}
