package console

import (
	"fmt"
	"strings"
	"time"
)

// Redrawing is frequent enough to look alive. Concourse stores every drawing
// as an event of the build, so there it isn't more frequent than that.
const (
	redrawEvery           = time.Second
	redrawOnTerminalEvery = time.Second / 10
)

// A Meter says how far something is that handles store paths.
type Meter interface {
	// Progress returns how many paths are done, of how many; and how many bytes
	// of NARs, uncompressed.
	Progress() (donePaths, totalPaths, doneBytes, totalBytes int64)
}

// Progress keeps the console's last line at what the meter says, until stop is
// called, which removes the line.
func (c *Console) Progress(what string, meter Meter) (stop func()) {
	start := time.Now()
	tick := time.NewTicker(redrawEvery)
	if c.columns != nil {
		tick.Reset(redrawOnTerminalEvery)
	}
	stopped, drawn := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(drawn)
		for {
			select {
			case now := <-tick.C:
				line := progressLine(what, meter, now.Sub(start))
				if c.columns != nil {
					_, _, done, total := meter.Progress()
					line = withBar(line, done, total, c.columns())
				}
				c.Overwrite(line)
			case <-stopped:
				c.Overwrite("")
				return
			}
		}
	}()
	return func() {
		tick.Stop()
		close(stopped)
		<-drawn
	}
}

// progressLine is, say, "pushing 12/373 paths, 81.4/1039.6 MiB, 27.1 MiB/s, 35s left".
// There is no time left to tell until something was done.
func progressLine(what string, m Meter, elapsed time.Duration) string {
	donePaths, totalPaths, done, total := m.Progress()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d/%d paths, %s", what, donePaths, totalPaths, formatRatio(done, total))
	if done > 0 && elapsed > 0 {
		rate := float64(done) / elapsed.Seconds()
		left := time.Duration(float64(max(0, total-done)) / rate * float64(time.Second))
		fmt.Fprintf(&b, ", %s/s, %s left", Bytes(int64(rate)), left.Round(time.Second))
	}
	return b.String()
}

// withBar puts a bar behind the line where a terminal has room for one, and cuts
// the line off where it doesn't even have room for that: a line that wraps can't
// be overwritten.
func withBar(line string, done, total int64, columns int) string {
	const narrowest, widest = 10, 40
	if columns <= 0 { // it doesn't say
		return line
	}
	room := columns - 1 - len(line) - len(" []") // the last column makes some terminals wrap
	if room < narrowest {
		return line[:min(len(line), columns-1)]
	}
	width := min(room, widest)
	filled := 0
	if total > 0 {
		filled = int(float64(width) * float64(min(done, total)) / float64(total))
	}
	return line + " [" + strings.Repeat("#", filled) + strings.Repeat(".", width-filled) + "]"
}
