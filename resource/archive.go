package resource

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
)

// compression is that of an archive.
type compression string

const (
	compressionGzip compression = "gzip" // which any machine can unpack
	compressionZstd compression = "zstd"
)

// archiveName is what an archive is called in a destination.
func (c compression) archiveName() string {
	if c == compressionZstd {
		return "closure.tar.zst"
	}
	return "closure.tar.gz"
}

// decodeCompression takes the compression of a get's archive.
func decodeCompression(o *object, f format) compression {
	c := parsed(o, "compression", func(s string) (compression, error) {
		switch c := compression(s); c {
		case compressionGzip, compressionZstd:
			return c, nil
		}
		return "", fmt.Errorf("want gzip or zstd, got %q", s)
	})
	if c != "" && f != formatArchive {
		o.failWith("compression", hint.With(fmt.Errorf("the format is %s", f), "only with format: archive is there something to compress"))
	}
	if c == "" {
		c = compressionGzip
	}
	return c
}

// fetchArchive leaves the closure in the destination as a tar, which is written
// while the closure comes, and gets its name once all of it is verified.
func fetchArchive(ctx context.Context, console *Console, from *cache.Cache, closure *cache.Closure, c compression, meter *cache.Meter, dest destination) error {
	name := c.archiveName()
	file, err := os.OpenFile(dest.path(unfinished(name)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	compressed, err := cache.Compress(file, string(c))
	if err != nil {
		return err
	}
	tarball := nixstore.NewTarball(compressed)
	err = from.FetchInOrder(ctx, closure, tarball, meter)
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
	console.Say("%s has %s", name, formatBytes(info.Size()))
	return nil
}
