// Package changes says what a generation changes against the one before: which
// packages come, go and change their version, what that does to the closure's
// size, and whether a host has to reboot for it.
//
// All of it is read off the two closures' path infos: names, sizes and
// references. That is what a manifest holds, so nothing has to be downloaded,
// unpacked or evaluated; and it is all there is to go by. What a package is
// called and which version it has are therefore guesses, made by Nix's own
// rules: the lines are those of nix store diff-closures, but for the plus sign
// before what grows, which Nix has lost since 2.33. A rebuild that changes no
// name and less than 8 KiB doesn't show in them.
//
// What a comparison says is as true as the path infos that it was made from.
// Who has verified both closures can believe it; who has it from
// changes/<pointer>/<generation>.json has the word of whoever can write there.
package changes

import (
	"slices"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Closure is one of the two that are compared.
type Closure struct {
	Generation uint64        // its number, 0 if it has none
	Root       nix.StorePath // zero for the closure before a pointer's first
	Revision   string        // of the sources that it was built from, or empty
	Infos      []nix.PathInfo
}

// Changes are what one closure changes against the one before.
type Changes struct {
	Before   *Side     `json:"before,omitempty"` // nil if there is none: then nothing was compared
	After    Side      `json:"after"`
	Reboot   []string  `json:"reboot"`   // which of kernel, initrd and systemd aren't what they were
	Packages []Package `json:"packages"` // those that changed, by name
}

// A Side is a closure in brief.
type Side struct {
	Generation uint64        `json:"generation,omitempty"`
	Path       nix.StorePath `json:"path"`
	Revision   string        `json:"revision,omitempty"`
	Paths      int           `json:"paths"`
	NarSize    int64         `json:"narSize"` // in bytes
}

// Compare returns what after changes.
func Compare(before, after Closure) *Changes {
	c := &Changes{After: after.side(), Reboot: []string{}, Packages: []Package{}}
	if before.Root.IsZero() {
		return c
	}
	side := before.side()
	c.Before = &side
	for _, part := range parts {
		if !slices.Equal(before.part(part), after.part(part)) {
			c.Reboot = append(c.Reboot, part)
		}
	}
	c.Packages = comparePackages(before.Infos, after.Infos)
	return c
}

func (cl Closure) side() Side {
	s := Side{cl.Generation, cl.Root, cl.Revision, len(cl.Infos), 0}
	for _, info := range cl.Infos {
		s.NarSize += info.NarSize
	}
	return s
}
