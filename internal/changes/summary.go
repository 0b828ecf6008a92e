package changes

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// MaxSummary bounds a summary, in bytes.
const MaxSummary = 200

// Summary tells it on one line: what a reboot is due for, and then as many of
// the packages as there is room for, the system itself first, whose version is
// that of NixOS. It is empty if there was nothing to compare with.
//
//	reboot due (kernel, initrd); linux: 6.12.30 → 6.12.31; nginx: 1.26.2 → 1.26.3; 12 more
func (c *Changes) Summary() string {
	if c.Before == nil {
		return ""
	}
	system, _ := split(c.After.Path.Name())
	packages := slices.Clone(c.Packages)
	if i := slices.IndexFunc(packages, func(p Package) bool { return p.Name == system }); i > 0 {
		packages = slices.Insert(slices.Delete(packages, i, i+1), 0, c.Packages[i])
	}
	n := 0
	for n < len(packages) && len(c.summary(packages, n+1)) <= MaxSummary {
		n++
	}
	return c.summary(packages, n)
}

// summary is the one that names the first n packages.
func (c *Changes) summary(packages []Package, n int) string {
	var items []string
	if len(c.Reboot) > 0 {
		items = append(items, "reboot due ("+strings.Join(c.Reboot, ", ")+")")
	}
	for _, p := range packages[:n] {
		items = append(items, p.Name+": "+cmp.Or(p.versions(), formatGrowth(p.grows(), false)))
	}
	switch left := len(packages) - n; {
	case len(packages) == 0:
		items = append(items, "no package changed")
	case left == len(packages):
		items = append(items, fmt.Sprintf("changed packages: %d", left))
	case left > 0:
		items = append(items, fmt.Sprintf("%d more", left))
	}
	return printable(strings.Join(items, "; "))
}
