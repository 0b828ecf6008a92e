package cache

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/compression"
)

// What Compress writes depends on nothing but what it is given, and is the
// compression that it says.
func TestCompress(t *testing.T) {
	var plain []byte
	for i := 0; len(plain) < frameSize+17; i++ {
		plain = fmt.Appendln(plain, i, strings.Repeat(" the same", 20))
	}
	for _, compression := range []string{"gzip", "zstd"} {
		compress := func(cores, chunk int) []byte {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
			var out bytes.Buffer
			w, err := Compress(&out, compression)
			if err != nil {
				t.Fatal(err)
			}
			for rest := plain; len(rest) > 0; {
				n := min(chunk, len(rest))
				if _, err := w.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
		compressed := compress(1, len(plain))
		if !bytes.Equal(compressed, compress(4, 64<<10)) {
			t.Errorf("%s: on four cores, and cut otherwise, it is something else", compression)
		}
		if len(compressed) > len(plain)*3/4 {
			t.Errorf("%s: %d bytes of %d", compression, len(compressed), len(plain))
		}
		r, err := newReader(compression, bytes.NewReader(compressed))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: got %d bytes back (%v)", compression, len(got), err)
		}
	}
	if _, err := Compress(io.Discard, "rar"); err == nil {
		t.Error("rar: no error")
	}
}

// newReader is what undoes compressions. (In tests, their name is taken.)
var newReader = compression.NewReader
