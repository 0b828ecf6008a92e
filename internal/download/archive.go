package download

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/store"
)

// Compression is that of an archive.
type Compression string

// The compressions. The zero Compression is Gzip.
const (
	Gzip Compression = "gzip" // which any machine can unpack
	Zstd Compression = "zstd"
)

// archiveName is what an archive is called in a destination.
func (c Compression) archiveName() string {
	if c == Zstd {
		return "closure.tar.zst"
	}
	return "closure.tar.gz"
}

// ParseCompression parses the name of a compression.
func ParseCompression(s string) (Compression, error) {
	switch c := Compression(s); c {
	case Gzip, Zstd:
		return c, nil
	}
	return "", fmt.Errorf("want gzip or zstd, got %q", s)
}

// fetchArchive leaves the closure in the destination as a tar, which is written
// while the closure comes, and gets its name once all of it is verified.
func (r *Request) fetchArchive(ctx context.Context, closure *cache.Closure, meter *cache.Meter, dest destination) error {
	compression := cmp.Or(r.Compression, Gzip)
	name := compression.archiveName()
	file, err := os.OpenFile(dest.path(unfinished(name)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	compressed, err := cache.Compress(file, string(compression))
	if err != nil {
		return err
	}
	tarball := store.NewTarball(compressed)
	err = r.Site.Cache.FetchInOrder(ctx, closure, tarball, meter)
	if err == nil {
		err = tarball.Register(closure.Infos())
	}
	if err = errors.Join(err, compressed.Close()); err != nil {
		return err
	}
	info, err := file.Stat()
	if err := errors.Join(err, file.Close(), dest.finish(name)); err != nil {
		return err
	}
	r.Console.Say("%s has %s", name, console.Bytes(info.Size()))
	return nil
}
