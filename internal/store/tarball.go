package store

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/ctxio"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Tarball is a store in a tar, laid out as nixpkgs' make-system-tarball does
// it: nix/store with the files of paths, and nix-path-registration, which
// nix-store --load-db reads where it was unpacked. It is written as it comes,
// and the same paths, in the same order, give the same bytes.
//
// The format is that of GNU, which busybox and libarchive read as well. (Of
// pax, busybox ignores long names.)
type Tarball struct {
	w   *tar.Writer
	err error // of the beginning
}

// NewTarball begins a tar on w.
func NewTarball(w io.Writer) *Tarball {
	t := &Tarball{w: tar.NewWriter(w)}
	for _, dir := range []string{"nix/", "nix/store/"} {
		if t.err == nil {
			t.err = t.header(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
		}
	}
	return t
}

// Restore adds a path's files. Only one path can be added at a time. After an
// error, the tar is of no use.
func (t *Tarball) Restore(ctx context.Context, path nix.StorePath, archive io.Reader) error {
	err := t.err
	if err == nil {
		err = t.add(path.String()[1:], nar.NewReader(ctxio.NewReader(ctx, archive)))
	}
	if err != nil {
		return fmt.Errorf("adding %s to a tar: %w", path, err)
	}
	return nil
}

// add adds the files of a NAR, under a name.
func (t *Tarball) add(name string, archive *nar.Reader) error {
	for {
		entry, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		header := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(nar.InStore.File)}
		if entry.Path != "" {
			header.Name += "/" + entry.Path
		}
		switch {
		case entry.Type == nar.Directory:
			header.Typeflag, header.Mode = tar.TypeDir, int64(nar.InStore.Directory)
			header.Name += "/"
		case entry.Type == nar.Symlink:
			header.Typeflag, header.Mode = tar.TypeSymlink, 0o777
			header.Linkname = entry.Target
		default:
			header.Size = entry.Size
			if entry.Executable {
				header.Mode = int64(nar.InStore.Executable)
			}
		}
		if err := t.header(header); err != nil {
			return err
		}
		if _, err := archive.WriteTo(t.w); err != nil {
			return err
		}
	}
}

// header begins an entry.
func (t *Tarball) header(h tar.Header) error {
	h.Format, h.ModTime = tar.FormatGNU, time.Unix(1, 0)
	return t.w.WriteHeader(&h)
}

// Register finishes the tar with what Nix has to know of the paths that were
// added.
func (t *Tarball) Register(infos []nix.PathInfo) error {
	text := Registration(infos)
	err := t.header(tar.Header{Typeflag: tar.TypeReg, Name: "nix-path-registration", Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(t.w, text)
	}
	if err == nil {
		err = t.w.Close()
	}
	if err != nil {
		return fmt.Errorf("finishing a tar: %w", err)
	}
	return nil
}
