package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/store"
)

// A synthetic closure is made of nothing but numbers, where it doesn't matter
// what is in a path, only how large it is and how many there are.
type synthetic struct {
	name  string
	after string  // the closure whose paths these are, but for the root; empty: they are its own
	sizes []int64 // of each path's one file, in bytes; the first is the root's
	dense bool    // without holes
}

// fanOut is how many paths a path refers to: closures are wide, not deep.
const fanOut = 20

// write makes a store below dir, which must not exist, that has the closure and
// nothing else, and returns its root.
func (c synthetic) write(ctx context.Context, dir string) (nix.StorePath, error) {
	infos := make([]nix.PathInfo, len(c.sizes))
	for i := range infos {
		var err error
		if infos[i].Path, err = c.path(i); err != nil {
			return nix.StorePath{}, err
		}
	}
	root, err := store.CreateRoot(dir)
	if err != nil {
		return nix.StorePath{}, err
	}
	group, writing := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for i := range infos {
		info := &infos[i]
		for j := i*fanOut + 1; j <= (i+1)*fanOut && j < len(infos); j++ {
			info.References = append(info.References, infos[j].Path)
		}
		nix.SortPaths(info.References)
		group.Go(func() error {
			path := filepath.Join(dir, info.Path.String())
			if err := os.Mkdir(path, 0o755); err != nil {
				return err
			}
			if err := c.writeFile(filepath.Join(path, "file"), info.Path, c.sizes[i]); err != nil {
				return err
			}
			hash := sha256.New()
			counter := &counter{w: hash}
			if err := nar.Dump(counter, path); err != nil {
				return err
			}
			info.NarHash, info.NarSize = nix.SumHash(hash), counter.n
			return writing.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return nix.StorePath{}, err
	}
	return infos[0].Path, root.Register(ctx, infos)
}

// path is the i-th path of the closure.
func (c synthetic) path(i int) (nix.StorePath, error) {
	name := fmt.Sprintf("%s-%d", c.name, i)
	if i > 0 && c.after != "" {
		name = fmt.Sprintf("%s-%d", c.after, i)
	}
	hash := sha256.Sum256([]byte(name))
	return nix.ParseBaseName(nixbase32.EncodeToString(hash[:20]) + "-" + name)
}

// A file is noise, which no compression makes smaller. Unless it is dense,
// nine of ten mebibytes are holes.
const (
	stretch = 10 << 20
	noise   = 1 << 20
)

func (c synthetic) writeFile(name string, path nix.StorePath, size int64) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer file.Close()
	random := rand.NewChaCha8(sha256.Sum256([]byte(path.Base()))) // no two files are the same
	w := bufio.NewWriterSize(file, noise)
	for at := int64(0); at < size; at += stretch {
		n := min(size-at, noise)
		if c.dense {
			n = min(size-at, stretch)
		} else if err := seek(w, file, at); err != nil {
			return err
		}
		if _, err := io.CopyN(w, random, n); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := file.Truncate(size); err != nil {
		return err
	}
	return file.Close()
}

func seek(w *bufio.Writer, file *os.File, at int64) error {
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := file.Seek(at, io.SeekStart)
	return err
}

// A counter counts what goes through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}
