package blob

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// TestImpatient waits for an answer while a long request is being written, and
// then in vain.
func TestImpatient(t *testing.T) {
	const stall = time.Second
	end, other := net.Pipe()
	defer end.Close()
	go io.Copy(io.Discard, other)
	conn := impatient{end, stall}
	var written atomic.Bool
	go func() {
		for range 30 {
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Error(err)
			}
			time.Sleep(stall / 20)
		}
		written.Store(true)
	}()
	_, err := conn.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) || !written.Load() {
		t.Errorf("the error is %v; all is written: %v", err, written.Load())
	}

	_, mute := net.Pipe()
	defer mute.Close()
	if _, err := (impatient{mute, stall / 10}).Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("writing to one who doesn't read: %v", err)
	}
}
