package nixcmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Closure returns what the store knows of the paths and of all that they
// reference, each once and sorted by path. A path that is not valid in the store
// is an error.
func (s *Store) Closure(ctx context.Context, roots ...nix.StorePath) ([]nix.PathInfo, error) {
	if s.remote != nil {
		infos, err := s.remote.closure(ctx, roots)
		if err != nil {
			err = fmt.Errorf("reading the closure of %s from %s: %w", roots[0], s.remote.name, err)
		}
		return infos, err
	}
	out, err := s.expected.answer(roots)
	if out == nil && err == nil {
		out, err = s.askClosure(ctx, roots)
	}
	var failure *queryError
	if errors.As(err, &failure) && strings.Contains(failure.stderr, "is not valid") {
		named := roots[0].String()
		if found := notValid.FindStringSubmatch(failure.stderr); found != nil {
			named = found[1]
		}
		err = invalid(named)
	}
	var infos []nix.PathInfo
	if err == nil {
		infos, err = parsePathInfos(out)
	}
	if err == nil {
		err = checkClosure(roots, infos)
	}
	if err != nil {
		of := roots[0].String()
		if len(roots) > 1 {
			of += fmt.Sprintf(" and %d more", len(roots)-1)
		}
		return nil, fmt.Errorf("reading the closure of %s from the local store: %w", of, err)
	}
	return infos, nil
}

// askClosure asks Nix for the closure of the roots, in JSON.
func (s *Store) askClosure(ctx context.Context, roots []nix.StorePath) ([]byte, error) {
	args := []string{"path-info", "--recursive", "--json"}
	for _, root := range roots {
		args = append(args, root.String())
	}
	return s.query(ctx, [][]string{append(args, "--json-format", "1"), args})
}

// An expectation is the closure of a root that Nix is asked for before somebody
// wants to know.
type expectation struct {
	root  nix.StorePath
	used  atomic.Bool
	there chan struct{} // is closed when out and err are there
	out   []byte
	err   error
}

// expect asks Nix for the closure of a root.
func (s Store) expect(ctx context.Context, root nix.StorePath) *expectation {
	e := &expectation{root: root, there: make(chan struct{})}
	go func() {
		defer close(e.there)
		e.out, e.err = s.askClosure(ctx, []nix.StorePath{root})
	}()
	return e
}

// answer returns what Nix answers if that is what it was asked, and only once: by
// the next time there may be more. Otherwise both results are nil.
func (e *expectation) answer(roots []nix.StorePath) ([]byte, error) {
	if e == nil || len(roots) != 1 || roots[0] != e.root || e.used.Swap(true) {
		return nil, nil
	}
	<-e.there
	return e.out, e.err
}

var notValid = regexp.MustCompile(`path '([^']*)' is not valid`)

// invalid says that the store hasn't got a path.
func invalid(path string) error {
	return hint.With(fmt.Errorf("%s is not valid in it", path),
		"build the path here (the container of a step has a store of its own), or name by NIX_REMOTE a store that has it")
}

// parsePathInfos reads what nix path-info --json prints: since Nix 2.19 an
// object by path, before that a list; hashes in nix32, base 16 or SRI; what is
// not known missing, null or empty; a path that is not valid as null or
// {"valid": false}.
func parsePathInfos(data []byte) ([]nix.PathInfo, error) {
	type entry struct {
		Path       string
		Valid      *bool
		NarHash    nix.Hash
		NarSize    int64
		References []nix.StorePath
		Deriver    string
		CA         string
		Signatures []string
	}
	byPath := map[string]*entry{}
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		var list []entry
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, fmt.Errorf("what nix path-info printed: %w", err)
		}
		for i := range list {
			byPath[list[i].Path] = &list[i]
		}
	} else if err := json.Unmarshal(data, &byPath); err != nil {
		return nil, fmt.Errorf("what nix path-info printed: %w", err)
	}

	var infos []nix.PathInfo
	for _, text := range slices.Sorted(maps.Keys(byPath)) {
		path, err := nix.ParseStorePath(text)
		if err != nil {
			return nil, err
		}
		e := byPath[text]
		if e == nil || e.Valid != nil && !*e.Valid {
			return nil, invalid(text)
		}
		if e.NarHash.IsZero() || e.NarSize <= 0 || e.NarSize > nix.MaxNarSize {
			return nil, fmt.Errorf("Nix doesn't know the hash or the size of %s", path)
		}
		info := nix.PathInfo{Path: path, NarHash: e.NarHash, NarSize: e.NarSize, References: nix.SortPaths(e.References)}
		if info.CA, err = nix.ParseContentAddress(e.CA); err != nil {
			return nil, fmt.Errorf("the content address of %s: %w", path, err)
		}
		if e.Deriver != "" {
			if info.Deriver, err = nix.ParseStorePath(e.Deriver); err != nil {
				return nil, fmt.Errorf("the deriver of %s: %w", path, err)
			}
		}
		for _, text := range e.Signatures {
			signature, err := nix.ParseSignature(text)
			if err != nil {
				return nil, fmt.Errorf("a signature of %s: %w", path, err)
			}
			info.Signatures = append(info.Signatures, signature)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// checkClosure returns an error unless the roots and all references are there.
func checkClosure(roots []nix.StorePath, infos []nix.PathInfo) error {
	there := make(map[nix.StorePath]bool, len(infos))
	for _, info := range infos {
		there[info.Path] = true
	}
	for _, root := range roots {
		if !there[root] {
			return invalid(root.String())
		}
	}
	for _, info := range infos {
		for _, reference := range info.References {
			if !there[reference] {
				return invalid(fmt.Sprintf("%s, which %s refers to,", reference, info.Path))
			}
		}
	}
	return nil
}
