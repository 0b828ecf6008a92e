package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// printJSON prints v for programs.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printTable prints rows for people. What the cells quote may come from anywhere,
// so it doesn't get to control a terminal, or the table. The further lines of a cell
// stand below its first.
func (a *app) printTable(rows [][]string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for more := true; more; {
			more = false
			line := make([]string, len(row))
			for i, cell := range row {
				var rest string
				line[i], rest, _ = strings.Cut(cell, "\n")
				line[i], row[i] = printable(line[i]), rest
				more = more || rest != ""
			}
			fmt.Fprintln(w, strings.Join(line, "\t"))
		}
	}
	return w.Flush()
}

// printGeneration prints a generation with further rows; in JSON, it alone, as it
// stands in the pointer.
func (a *app) printGeneration(name pointer.Name, g pointer.Generation, more ...site.Row) error {
	if a.asJSON {
		return a.printJSON(g)
	}
	return a.printRows(append(site.Describe(name, g), more...))
}

// printMove is printGeneration of one that a pointer has moved to. A person who sits
// before a terminal has just been told all of it, there.
func (a *app) printMove(name pointer.Name, g pointer.Generation, more ...site.Row) error {
	if a.told && !a.asJSON {
		return nil
	}
	return a.printGeneration(name, g, more...)
}

func (a *app) printRows(all site.Rows) error {
	var rows [][]string
	for _, row := range all {
		rows = append(rows, []string{row.Name, row.Value})
	}
	return a.printTable(rows)
}

// printChanges prints what a generation changes.
func (a *app) printChanges(c *changes.Changes) error {
	_, err := io.WriteString(a.stdout, c.Text(a.colour))
	return err
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
