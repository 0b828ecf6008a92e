package resource

import (
	"fmt"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// An Answer is what a get or a put says on stdout.
type Answer struct {
	Version  Version  `json:"version"`
	Metadata Metadata `json:"metadata"`
}

// Metadata are what a person sees on the build's page, row by row: plain text,
// or a link where the value is a URL.
type Metadata []Row

// A Row is one of them.
type Row struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// add adds a row, unless there is nothing to say.
func (m *Metadata) add(name, value string) {
	if value != "" {
		*m = append(*m, Row{name, value})
	}
}

// describe are the rows about a generation, whoever asks.
func describe(name pointer.Name, g pointer.Generation) Metadata {
	var m Metadata
	m.add("pointer", string(name))
	m.add("generation", fmt.Sprint(g.Number))
	m.add("path", g.Path.String())
	m.add("revision", g.Details.Revision)
	m.add("message", g.Details.Message)
	if origin := g.Details.Origin; origin != nil && origin.Pointer != name { // else, it says so itself
		m.add("promoted from", fmt.Sprintf("generation %d of %s", origin.Generation, origin.Pointer))
	}
	m.add("changes", g.Details.Changes)
	m.add("closure", amount(g.Details.Sizes.Paths, g.Details.Sizes.NarSize))
	m.add("created", formatTime(g.Created))
	if g.Expires != 0 {
		m.add("expires", formatTime(g.Expires))
	}
	m.add("build", g.Details.Provenance.URL)
	return m
}

// amount is, say, "373 paths, 1.0 GiB"; "" for none.
func amount(paths int, size int64) string {
	if paths == 0 {
		return ""
	}
	return count(paths, "path") + ", " + formatBytes(size)
}

// count is, say, "1 path" or "2 paths".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// formatTime writes seconds since 1970.
func formatTime(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
