package console

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A meter shows what a test has set.
type meter struct {
	mu                                           sync.Mutex
	donePaths, totalPaths, doneBytes, totalBytes int64
}

func (m *meter) set(donePaths, doneBytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.donePaths, m.doneBytes = donePaths, doneBytes
}

func (m *meter) Progress() (donePaths, totalPaths, doneBytes, totalBytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.donePaths, m.totalPaths, m.doneBytes, m.totalBytes
}

func TestProgressLine(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		donePaths, paths, done, total int64
		elapsed                       time.Duration
		want                          string
	}{
		{0, 0, 0, 0, time.Second, "pushing 0/0 paths, 0/0 B"},
		{0, 373, 0, 1040 * mib, time.Second, "pushing 0/373 paths, 0.0/1.0 GiB"},
		{12, 373, 100 * mib, 1000 * mib, 10 * time.Second, "pushing 12/373 paths, 100.0/1000.0 MiB, 10.0 MiB/s, 1m30s left"},
		{1, 2, 512, 1000, time.Second, "pushing 1/2 paths, 512/1000 B, 512 B/s, 1s left"},
		{1, 1, 10, 5, time.Second, "pushing 1/1 paths, 10/5 B, 10 B/s, 0s left"}, // a NAR larger than announced
	} {
		m := meter{donePaths: test.donePaths, totalPaths: test.paths, doneBytes: test.done, totalBytes: test.total}
		if got := progressLine("pushing", &m, test.elapsed); got != test.want {
			t.Errorf("got  %q\nwant %q", got, test.want)
		}
	}
}

func TestWithBar(t *testing.T) {
	for _, test := range []struct {
		done, total int64
		columns     int
		want        string
	}{
		{0, 0, 80, "pushing [........................................]"},
		{1, 2, 80, "pushing [####################....................]"},
		{3, 2, 80, "pushing [########################################]"},
		{1, 2, 21, "pushing [#####.....]"},
		{1, 2, 20, "pushing"},
		{1, 2, 5, "push"},
		{1, 2, 0, "pushing"},
	} {
		if got := withBar("pushing", test.done, test.total, test.columns); got != test.want {
			t.Errorf("%d of %d in %d columns: got %q, want %q", test.done, test.total, test.columns, got, test.want)
		}
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 12_700: "12.4 KiB", 1 << 30: "1.0 GiB", 5 << 50: "5120.0 TiB"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

// The line is drawn every second, replaces itself, and is gone in the end.
func TestDrawProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		m := &meter{totalPaths: 2, totalBytes: 2000}
		stop := (&Console{w: &b, live: true}).Progress("pushing", m)
		time.Sleep(1500 * time.Millisecond) // of the test's own clock
		m.set(1, 1000)
		time.Sleep(time.Second)
		stop()
		first, second := "pushing 0/2 paths, 0.0/2.0 KiB", "pushing 1/2 paths, 1.0/2.0 KiB, 500 B/s, 2s left"
		blank := func(s string) string { return "\r" + strings.Repeat(" ", len(s)) + "\r" }
		if diff := cmp.Diff(first+blank(first)+second+blank(second), b.String()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// On a terminal there is a bar, which moves more often.
func TestDrawProgressOnTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		m := new(meter)
		stop := (&Console{w: &b, live: true, columns: func() int { return 50 }}).Progress("pushing", m)
		time.Sleep(150 * time.Millisecond)
		stop()
		want := "pushing 0/0 paths, 0/0 B [......................]"
		if diff := cmp.Diff(want+"\r"+strings.Repeat(" ", len(want))+"\r", b.String()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// Where nobody is watching, nothing is drawn.
func TestDrawNoProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		stop := (&Console{w: &b}).Progress("pushing", new(meter))
		time.Sleep(time.Minute)
		stop()
		if b.Len() > 0 {
			t.Errorf("got %q", b.String())
		}
	})
}
