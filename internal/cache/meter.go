package cache

import "sync/atomic"

// A Meter counts how far a push or a fetch is. The engine adds to it from
// several goroutines; whoever draws it reads it when it likes. The totals grow
// as the work becomes known.
type Meter struct {
	TotalPaths, DonePaths atomic.Int64
	TotalBytes, DoneBytes atomic.Int64 // of NARs, uncompressed
}

// Progress returns how far it is.
func (m *Meter) Progress() (donePaths, totalPaths, doneBytes, totalBytes int64) {
	return m.DonePaths.Load(), m.TotalPaths.Load(), m.DoneBytes.Load(), m.TotalBytes.Load()
}

func (m *Meter) expect(paths int, bytes int64) {
	if m != nil {
		m.TotalPaths.Add(int64(paths))
		m.TotalBytes.Add(bytes)
	}
}

func (m *Meter) done() {
	if m != nil {
		m.DonePaths.Add(1)
	}
}

// read counts the bytes of a NAR.
func (m *Meter) read(bytes int64) {
	if m != nil {
		m.DoneBytes.Add(bytes)
	}
}

// Write counts the bytes of a NAR.
func (m *Meter) Write(p []byte) (int, error) {
	m.read(int64(len(p)))
	return len(p), nil
}
