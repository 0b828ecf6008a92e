package changes

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Text tells people all of it, on lines of their own: the packages, as nix
// store diff-closures would, an empty line, and then the closure's size, the
// revision of its sources, and what a reboot is due for. In colour, growth is
// red, shrinking green, as Nix has it, and the reboot yellow.
func (c *Changes) Text(colour bool) string {
	var b strings.Builder
	for _, p := range c.Packages {
		b.WriteString(p.text(colour) + "\n")
	}
	switch {
	case c.Before == nil:
	case len(c.Packages) == 0:
		b.WriteString("no package changed\n\n")
	default:
		b.WriteByte('\n')
	}

	before, after := c.After, c.After
	if c.Before != nil {
		before = *c.Before
	}
	paths := "paths"
	if after.Paths == 1 {
		paths = "path"
	}
	fmt.Fprintf(&b, "closure: %s %s, %s", arrow(fmt.Sprint(before.Paths), fmt.Sprint(after.Paths)), paths,
		arrow(formatSize(before.NarSize), formatSize(after.NarSize)))
	if growth := after.NarSize - before.NarSize; growth >= 1<<10 || growth <= -1<<10 {
		b.WriteString(", " + formatGrowth(growth, colour))
	}
	b.WriteByte('\n')
	if before.Revision != "" || after.Revision != "" {
		fmt.Fprintf(&b, "revision: %s\n", arrow(known(before.Revision), known(after.Revision)))
	}
	if len(c.Reboot) > 0 {
		b.WriteString(paint(printable("reboot due: "+strings.Join(c.Reboot, ", ")), yellow, colour) + "\n")
	}
	return b.String()
}

// String is the package's line: nginx: 1.26.2 → 1.26.3, +12.4 KiB. Versions that
// both closures have are left out. ∅ is no version at all, ε the one of a name
// without a version.
func (p Package) String() string { return p.text(false) }

func (p Package) text(colour bool) string {
	var items []string
	if versions := p.versions(); versions != "" {
		items = append(items, versions)
	}
	if growth := p.grows(); growth != 0 {
		items = append(items, formatGrowth(growth, colour))
	}
	return printable(p.Name) + ": " + strings.Join(items, ", ")
}

// versions is, say, 1.26.2 → 1.26.3; "" if all stay.
func (p Package) versions() string {
	removed, added := missing(p.Before.Versions, p.After.Versions), missing(p.After.Versions, p.Before.Versions)
	if len(removed)+len(added) == 0 {
		return ""
	}
	return formatVersions(removed) + " → " + formatVersions(added)
}

// missing returns those of versions that are not among others.
func missing(versions, others []string) []string {
	return slices.DeleteFunc(slices.Clone(versions), func(v string) bool { return slices.Contains(others, v) })
}

func formatVersions(versions []string) string {
	if len(versions) == 0 {
		return "∅"
	}
	if versions[0] == "" { // Nix sorts by what it prints
		versions = append(versions[1:], "ε")
	}
	return printable(strings.Join(versions, ", "))
}

// formatSize writes bytes as Nix does, in KiB or more.
func formatSize(bytes int64) string {
	value, unit := float64(bytes)/1024, 0
	for whole := bytes / 1024; whole > 1024 || whole < -1024; whole /= 1024 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}

// formatGrowth writes by how many bytes something grows.
func formatGrowth(bytes int64, colour bool) string {
	if bytes > 0 {
		return paint("+"+formatSize(bytes), red, colour)
	}
	return paint(formatSize(bytes), green, colour)
}

// arrow is what was and what is, or only that if it is the same.
func arrow(before, after string) string {
	if before == after {
		return after
	}
	return before + " → " + after
}

// known is a revision, if it is one.
func known(revision string) string {
	if revision == "" {
		return "unknown"
	}
	return printable(revision)
}

// printable replaces what could control a terminal: comparisons that were read
// from a cache may say anything.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

const (
	red    = "\x1b[31;1m"
	green  = "\x1b[32;1m"
	yellow = "\x1b[33;1m"
	plain  = "\x1b[0m"
)

func paint(text, code string, colour bool) string {
	if !colour {
		return text
	}
	return code + text + plain
}
