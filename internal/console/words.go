package console

import (
	"fmt"
	"time"
)

// Amount is, say, "373 paths, 1.0 GiB"; "" for none. The size is in bytes.
func Amount(paths int, size int64) string {
	if paths == 0 {
		return ""
	}
	return Count(paths, "path") + ", " + Bytes(size)
}

// Count is, say, "1 path" or "2 paths".
func Count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Time writes seconds since 1970.
func Time(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

// Bytes writes a size as Nix does: 1.5 KiB, 12.0 MiB.
func Bytes(n int64) string {
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
