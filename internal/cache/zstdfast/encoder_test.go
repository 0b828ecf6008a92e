package zstdfast_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache/zstdfast"
)

// random are bytes of an alphabet of so many.
func random(seed uint64, size, alphabet int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(r.IntN(alphabet))
	}
	return b
}

// words are words of a vocabulary, in random order.
func words(seed uint64, size, vocabulary, length int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	all := random(seed, vocabulary*length, 256)
	b := make([]byte, 0, size+length)
	for len(b) < size {
		n := r.IntN(vocabulary) * length
		b = append(b, all[n:n+length]...)
	}
	return b[:size]
}

// program is what store paths hold most of: this test's own.
func program(t testing.TB) []byte {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text[:min(len(text), zstdfast.MaxFrame)]
}

// contents are frames that between them take every turn of the encoder.
func contents(t testing.TB) map[string][]byte {
	const block = 128 << 10
	all := map[string][]byte{
		"program":                          program(t),
		"zeros":                            make([]byte, 3*block+1),
		"one long repetition":              bytes.Repeat(random(1, 100_000, 256), 20),
		"repetition of the first block":    slices.Concat(random(2, block, 256), random(3, block, 256), random(2, block, 256)),
		"what can't be compressed":         random(4, 3*block, 256),
		"the same and what can, in turns":  slices.Concat(random(5, block, 256), words(5, block, 100, 9), random(6, block, 256), words(5, block, 100, 9)),
		"literals of few kinds":            random(7, 2*block, 3),
		"literals of two kinds, one block": random(8, 900, 2),
		"literals of one kind":             slices.Concat(random(9, 500, 256), bytes.Repeat([]byte("ab"), 9), random(9, 500, 256), []byte("aaaaaaaaaaaaaaab")),
		"many sequences":                   words(10, 2*block, 2000, 6),
		"matches as short as can be":       words(11, 2*block, 50, 4),
		"many literals, then a match":      slices.Concat(random(12, 70_000, 256), random(12, 61_000, 256)),
		"recent offsets":                   recent(),
		"an offset that nobody reads of":   unread(),
		"a whole frame":                    words(13, zstdfast.MaxFrame, 30_000, 7),
		"far offsets":                      slices.Concat(random(14, 1000, 256), words(15, zstdfast.MaxFrame-2000, 500, 11), random(14, 1000, 256)),
	}
	for _, size := range []int{0, 1, 2, 31, 32, 33, 34, 63, 64, 255, 256, 257, 1023, 1024, 4095, 4096, 65_791, 65_792, block - 1, block, block + 1, block + 32, block + 33} {
		all[fmt.Sprintf("%d words", size)] = words(uint64(size), size, 20, 5)
		all[fmt.Sprintf("%d letters", size)] = random(uint64(size), size, 5)
	}
	return all
}

// recent has matches at the same three offsets, with literals between them and
// without.
func recent() []byte {
	r := rand.New(rand.NewPCG(3, 3))
	b := random(16, 2000, 256)
	for len(b) < 300_000 {
		from := len(b) - []int{700, 1100, 1900, 300 + r.IntN(1500)}[r.IntN(4)]
		b = append(b, b[from:from+5+r.IntN(40)]...)
		if r.IntN(3) > 0 {
			b = append(b, byte(r.IntN(256)))
		}
	}
	return b
}

// unread has a second block that a match is found in, but which is left as it is,
// and a third that begins with a match at the same offset, which those who read
// the second don't know.
func unread() []byte {
	const block, from = 128 << 10, 10
	b := random(18, 2*block, 256)
	copy(b[block:], b[from:from+8])
	third := append([]byte{b[block+from] + 1}, b[block+from+1:block+from+2000]...)
	return append(b, third...)
}

func decoder(t testing.TB) *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func TestFramesUnpack(t *testing.T) {
	e, d := zstdfast.NewEncoder(), decoder(t)
	for name, content := range contents(t) {
		t.Run(name, func(t *testing.T) {
			frame := e.AppendFrame([]byte("before"), content)
			if string(frame[:6]) != "before" {
				t.Error("what was there before is lost")
			}
			frame = frame[6:]
			got, err := d.DecodeAll(frame, nil)
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%d bytes come back as %d others: %v", len(content), len(got), err)
			}
			if most := len(content) + 9 + 3*(len(content)>>17+1); len(frame) > most {
				t.Errorf("%d bytes take %d, want at most %d", len(content), len(frame), most)
			}
			if fresh := zstdfast.NewEncoder().AppendFrame(nil, content); !bytes.Equal(fresh, frame) {
				t.Error("the frame depends on those before it")
			}
		})
	}
}

// A file's holes take next to nothing, neither here nor of who unpacks them.
func TestHolesAreRuns(t *testing.T) {
	const block, header = 128 << 10, 10
	content := make([]byte, zstdfast.MaxFrame)
	frame := zstdfast.NewEncoder().AppendFrame(nil, content)
	runs := len(content)/block - 1 // all but the first
	if most := header + 30 + 4*runs; len(frame) > most {
		t.Errorf("%d zeros take %d bytes, want at most %d", len(content), len(frame), most)
	}
}

// The reference implementation is what Nix unpacks with.
func TestReferenceUnpacks(t *testing.T) {
	program, err := exec.LookPath("zstd")
	if err != nil {
		if os.Getenv("NIXOS_CLOSURE_TEST_REQUIRE") == "1" {
			t.Fatal("there is no zstd")
		}
		t.Skip("there is no zstd")
	}
	e := zstdfast.NewEncoder()
	var frames, want []byte
	for _, content := range contents(t) {
		frames, want = e.AppendFrame(frames, content), append(want, content...)
	}
	cmd := exec.Command(program, "-d", "-c")
	cmd.Stdin = bytes.NewReader(frames)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes come back as %d others: %v %s", len(want), len(got), err, stderr.String())
	}
}

// What the package is for would be lost with the ratio.
func TestRatio(t *testing.T) {
	content := program(t)
	e, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ours, theirs := len(zstdfast.NewEncoder().AppendFrame(nil, content)), len(e.EncodeAll(content, nil))
	t.Logf("%d bytes: %d, and %d by klauspost/compress", len(content), ours, theirs)
	if float64(ours) > 1.03*float64(theirs) {
		t.Errorf("a program of %d bytes takes %d, and %d by klauspost/compress", len(content), ours, theirs)
	}
}

func TestFrameTooLarge(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a frame that positions are too short for was made")
		}
	}()
	zstdfast.NewEncoder().AppendFrame(nil, make([]byte, zstdfast.MaxFrame+1))
}

func FuzzAppendFrame(f *testing.F) {
	for _, content := range contents(f) {
		if len(content) < 5000 {
			f.Add(content, uint16(3))
		}
	}
	e, d := zstdfast.NewEncoder(), decoder(f)
	f.Fuzz(func(t *testing.T, content []byte, repeat uint16) {
		// Repeated, so that blocks end anywhere.
		content = bytes.Repeat(content, int(repeat)%1000+1)
		content = content[:min(len(content), zstdfast.MaxFrame)]
		frame := e.AppendFrame(nil, content)
		got, err := d.DecodeAll(frame, nil)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes come back as %d others: %v", len(content), len(got), err)
		}
	})
}

func BenchmarkAppendFrame(b *testing.B) {
	content := program(b)
	e := zstdfast.NewEncoder()
	buf := make([]byte, 0, 2*len(content))
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		e.AppendFrame(buf, content)
	}
}
