package blob

import (
	"testing"
	"time"
)

// A server that drips is told from one that is slow, and from a reader that is.
func TestPace(t *testing.T) {
	for _, test := range []struct {
		name  string
		bytes int
		every time.Duration
		want  bool
	}{
		{"a byte every ten seconds", 1, 10 * time.Second, true},
		{"a modem", 3 << 10, time.Second, false},
		{"a packet each half minute", 1400, 30 * time.Second, true},
		{"a megabyte each minute", 1 << 20, time.Minute, false},
	} {
		var p pace
		slow := false
		for range 1000 {
			slow = slow || p.isTooSlow(test.bytes, test.every)
		}
		if slow != test.want {
			t.Errorf("%s: too slow is %v", test.name, slow)
		}
	}
}
