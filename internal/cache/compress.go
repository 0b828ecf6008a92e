package cache

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache/zstdfast"
)

// Compressions that Push can write, with the suffix of their files' names.
var suffixes = map[string]string{"zstd": ".nar.zst", "xz": ".nar.xz", "none": ".nar"}

// suffixOf is how the name of a file ends that holds a NAR, in a compression that
// perhaps only others write.
func suffixOf(compression string) string {
	if suffix, ok := suffixes[compression]; ok {
		return suffix
	}
	return ".nar." + map[string]string{"bzip2": "bz2", "gzip": "gz", "br": "br", "lz4": "lz4", "lzma": "lzma"}[compression]
}

// CanCompress says whether Push can write the named compression.
func CanCompress(compression string) bool { return suffixes[compression] != "" }

// frameSize is how much goes into one frame, in bytes. Frames are
// independent, so that one NAR is compressed on all cores; Nix does the same
// (since 2.35), and every zstd reads a sequence of frames as one stream.
const frameSize = zstdfast.MaxFrame

// bufferSize has room for a frame, and for one that can't be compressed.
const bufferSize = frameSize + 4<<10

// maxCores bounds the cores that compress, and with them the memory: each needs
// some 20 MiB. Six make 1 GB of NARs a second, more than there mostly is to send them
// by.
const maxCores = 6

func cores() int { return min(runtime.GOMAXPROCS(0), maxCores) }

// A compressor compresses NARs, several at a time, with a bounded number of
// frames in memory.
type compressor struct {
	compression string
	level       int
	encode      frameEncoder
	slots       chan struct{} // one for each frame in memory
	buffers     chan []byte   // idle ones, of bufferSize
}

func newCompressor(compression string, level int) (*compressor, error) {
	switch compression {
	case "zstd":
		const checksums = false // FileHash and NarHash say more
		encode, err := zstdFrames(level, checksums)
		return newFrameCompressor(compression, encode), err
	case "xz", "none":
		return &compressor{compression: compression, level: level}, nil
	}
	return nil, fmt.Errorf("the compression %q can't be written (zstd, xz and none can)", clip(compression))
}

func newFrameCompressor(compression string, encode frameEncoder) *compressor {
	frames := cores() + 2
	return &compressor{
		compression: compression,
		encode:      encode,
		slots:       make(chan struct{}, frames),
		buffers:     make(chan []byte, 2*frames),
	}
}

// A frameEncoder appends a frame, compressed, to buf. It may be called from
// several goroutines.
type frameEncoder func(frame, buf []byte) []byte

// defaultLevel is what zstd, and Nix, take if nobody says otherwise.
const defaultLevel = 3

func zstdFrames(level int, checksums bool) (frameEncoder, error) {
	level = cmp.Or(level, defaultLevel)
	if level == defaultLevel && !checksums {
		return fastFrames(), nil
	}
	encoder, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(cores()),
		zstd.WithWindowSize(frameSize), // all there is to look back to: more would only take memory
		zstd.WithEncoderCRC(checksums),
	)
	if err != nil {
		return nil, err
	}
	return encoder.EncodeAll, nil
}

// fastFrames makes the frames of the default level.
func fastFrames() frameEncoder {
	encoders := make(chan *zstdfast.Encoder, cores())
	for range cap(encoders) {
		encoders <- nil // to be made when it is needed
	}
	return func(frame, buf []byte) []byte {
		encoder := <-encoders
		defer func() { encoders <- encoder }()
		if encoder == nil {
			encoder = zstdfast.NewEncoder()
		}
		return encoder.AppendFrame(buf, frame)
	}
}

// gzipFrames makes each frame a member of its own: those who read gzip read a
// sequence of them as one stream.
func gzipFrames() frameEncoder {
	encoders := sync.Pool{New: func() any { return gzip.NewWriter(nil) }}
	return func(frame, buf []byte) []byte {
		out := bytes.NewBuffer(buf)
		encoder := encoders.Get().(*gzip.Writer)
		defer encoders.Put(encoder)
		encoder.Reset(out)
		encoder.Write(frame) // to memory, which takes all
		encoder.Close()
		return out.Bytes()
	}
}

// Compress returns a writer that compresses to w, on all cores, what is no NAR:
// with "gzip" or "zstd". What comes out depends on nothing but what is written.
// Closing it flushes, and doesn't close w; it must be closed.
func Compress(w io.Writer, compression string) (io.WriteCloser, error) {
	var c *compressor
	switch compression {
	case "gzip":
		c = newFrameCompressor(compression, gzipFrames())
	case "zstd":
		const checksums = true
		encode, err := zstdFrames(0, checksums)
		if err != nil {
			return nil, err
		}
		c = newFrameCompressor(compression, encode)
	default:
		return nil, fmt.Errorf("the compression %q is not known (gzip and zstd are)", clip(compression))
	}
	return c.writer(w)
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
		return make([]byte, 0, bufferSize)
	}
}

func (c *compressor) recycle(b []byte) {
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
		result <- f.c.encode(frame, f.c.buffer())
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
