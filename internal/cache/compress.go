package cache

import (
	"compress/bzip2"
	"compress/gzip"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Compressions that Push can write, with the suffix of their files' names.
var suffixes = map[string]string{"zstd": ".nar.zst", "xz": ".nar.xz", "none": ".nar"}

// CanCompress says whether Push can write the named compression.
func CanCompress(compression string) bool { return suffixes[compression] != "" }

// maxWindow is the largest window of a zstd frame that is read, in bytes: the
// limit of the zstd program, so that whatever it unpacks is unpacked here.
const maxWindow = 128 << 20

// decompress returns what a file of a cache holds, in the compressions that
// nix copy writes.
func decompress(compression string, r io.Reader) (io.ReadCloser, error) {
	switch compression {
	case "none":
		return io.NopCloser(r), nil
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case "xz":
		d, err := xz.NewReader(r)
		return io.NopCloser(d), err
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(r)), nil
	case "gzip":
		return gzip.NewReader(r)
	}
	return nil, fmt.Errorf("the compression %q is not known", clip(compression))
}

// frameSize is how much of a NAR goes into one zstd frame. Frames are
// independent, so that one NAR is compressed on all cores; Nix does the same
// (since 2.35), and every zstd reads a sequence of frames as one stream.
const frameSize = 4 << 20

// A compressor compresses NARs, several at a time, with a bounded number of
// frames in memory.
type compressor struct {
	compression string
	level       int
	zstd        *zstd.Encoder // its EncodeAll is safe for concurrent use
	slots       chan struct{} // one for each frame in memory
	buffers     chan []byte   // idle buffers of frameSize
}

func newCompressor(compression string, level int) (*compressor, error) {
	if !CanCompress(compression) {
		return nil, fmt.Errorf("the compression %q can't be written (zstd, xz and none can)", clip(compression))
	}
	frames := 2*runtime.GOMAXPROCS(0) + 2
	c := &compressor{
		compression: compression,
		level:       level,
		slots:       make(chan struct{}, frames),
		buffers:     make(chan []byte, 2*frames),
	}
	if compression != "zstd" {
		return c, nil
	}
	if level == 0 {
		level = 3
	}
	var err error
	c.zstd, err = zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithEncoderCRC(false), // FileHash and NarHash say more
	)
	return c, err
}

// writer returns a writer that compresses to w. Closing it flushes, and doesn't
// close w.
func (c *compressor) writer(w io.Writer) (io.WriteCloser, error) {
	switch c.compression {
	case "none":
		return nopCloser{w}, nil
	case "xz":
		// A dictionary of 8 MiB is what xz -6 and Nix use; the pure Go encoder
		// knows no other measure of effort.
		return xz.WriterConfig{DictCap: 8 << 20, CheckSum: xz.CRC64}.NewWriter(w)
	}
	f := &frameWriter{
		c:      c,
		queue:  make(chan chan []byte, cap(c.slots)),
		failed: make(chan struct{}),
		done:   make(chan struct{}),
	}
	go f.collect(w)
	return f, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func (c *compressor) buffer() []byte {
	select {
	case b := <-c.buffers:
		return b[:0]
	default:
		return nil
	}
}

func (c *compressor) recycle(b []byte) {
	if cap(b) < frameSize {
		return
	}
	select {
	case c.buffers <- b:
	default:
	}
}

// A frameWriter cuts what is written to it into frames, has them compressed
// side by side, and writes them out in order.
type frameWriter struct {
	c      *compressor
	frame  []byte           // being filled
	queue  chan chan []byte // frames being compressed, in order
	err    error            // of the output; read after failed or done is closed
	failed chan struct{}    // closed when the output has failed
	done   chan struct{}    // closed when all frames have been dealt with
}

func (f *frameWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if f.frame == nil {
			f.frame = f.c.buffer()
		}
		take := min(len(p)-n, frameSize-len(f.frame))
		f.frame = append(f.frame, p[n:n+take]...)
		n += take
		if len(f.frame) == frameSize {
			if err := f.submit(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// submit hands the frame over to be compressed. A slot is held until the frame
// has been written out; slots are taken in the order of frames, so that the
// frame that the output waits for always has one.
func (f *frameWriter) submit() error {
	select {
	case f.c.slots <- struct{}{}:
	case <-f.failed:
		return f.err
	}
	frame, result := f.frame, make(chan []byte, 1)
	f.frame = nil
	f.queue <- result
	go func() {
		result <- f.c.zstd.EncodeAll(frame, f.c.buffer())
		f.c.recycle(frame)
	}()
	return nil
}

func (f *frameWriter) collect(w io.Writer) {
	defer close(f.done)
	for result := range f.queue {
		data := <-result
		if f.err == nil {
			if _, f.err = w.Write(data); f.err != nil {
				close(f.failed)
			}
		}
		f.c.recycle(data)
		<-f.c.slots
	}
}

// Close compresses what is left and waits until everything has been written.
func (f *frameWriter) Close() error {
	var err error
	if len(f.frame) > 0 {
		err = f.submit()
	}
	close(f.queue)
	<-f.done
	if f.err != nil {
		return f.err
	}
	return err
}
