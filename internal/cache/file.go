package cache

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// ReadFile returns the content of a regular file of at most limit bytes in a
// path, by its name from there: bin/switch-to-configuration. If there is no such
// file, it is nil. The whole NAR is read for it, so that what a source verifies
// at the end is verified.
func ReadFile(ctx context.Context, source Source, path nix.StorePath, name string, limit int64) ([]byte, error) {
	r, w := io.Pipe()
	dumped := make(chan error, 1)
	go func() {
		err := source.DumpNAR(ctx, path, w)
		w.CloseWithError(err) // the end of the NAR, if err is nil
		dumped <- err
	}()
	content, err := findFile(r, name, limit)
	r.CloseWithError(errors.New("reading the NAR has failed")) // if so, dumping ends, too
	if dumpErr := <-dumped; err == nil {
		err = dumpErr
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s in %s: %w", name, path, err)
	}
	return content, nil
}

func findFile(r io.Reader, name string, limit int64) (content []byte, err error) {
	archive := nar.NewReader(r)
	for {
		entry, err := archive.Next()
		if err == io.EOF {
			return content, nil
		}
		if err == nil && entry.Path == name && entry.Type == nar.Regular && entry.Size <= limit {
			content, err = io.ReadAll(archive)
		}
		if err != nil {
			return nil, err
		}
	}
}
