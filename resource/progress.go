package resource

import (
	"fmt"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
)

// Redrawing is frequent enough to look alive. Concourse stores every drawing
// as an event of the build, so there it isn't more frequent than that.
const (
	redrawEvery           = time.Second
	redrawOnTerminalEvery = time.Second / 10
)

// drawProgress keeps the console's last line at what the meter says, until stop
// is called, which removes the line.
func drawProgress(c *Console, what string, meter *cache.Meter) (stop func()) {
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
					line = withBar(line, meter.DoneBytes.Load(), meter.TotalBytes.Load(), c.columns())
				}
				c.overwrite(line)
			case <-stopped:
				c.overwrite("")
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
func progressLine(what string, m *cache.Meter, elapsed time.Duration) string {
	done, total := m.DoneBytes.Load(), m.TotalBytes.Load()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d/%d paths, %s", what, m.DonePaths.Load(), m.TotalPaths.Load(), formatRatio(done, total))
	if done > 0 && elapsed > 0 {
		rate := float64(done) / elapsed.Seconds()
		left := time.Duration(float64(max(0, total-done)) / rate * float64(time.Second))
		fmt.Fprintf(&b, ", %s/s, %s left", formatBytes(int64(rate)), left.Round(time.Second))
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

// formatBytes writes a size as Nix does: 1.5 KiB, 12.0 MiB.
func formatBytes(n int64) string {
	unit, name := unitOf(n)
	if unit == 1 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", float64(n)/float64(unit), name)
}

// formatRatio writes two sizes in the unit of the larger: 0.4/1.1 GiB.
func formatRatio(n, of int64) string {
	unit, name := unitOf(max(n, of))
	if unit == 1 {
		return fmt.Sprintf("%d/%d B", n, of)
	}
	return fmt.Sprintf("%.1f/%.1f %s", float64(n)/float64(unit), float64(of)/float64(unit), name)
}

// unitOf is the largest unit that n is at least one of.
func unitOf(n int64) (int64, string) {
	unit, name := int64(1), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n < unit<<10 {
			break
		}
		unit, name = unit<<10, next
	}
	return unit, name
}
