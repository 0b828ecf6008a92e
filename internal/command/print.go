package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
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
// so it doesn't get to control a terminal, or the table.
func (a *app) printTable(rows [][]string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = printable(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// An answer is what Concourse would be told of a version, in JSON.
type answer struct {
	Version  answerVersion `json:"version"`
	Metadata site.Rows     `json:"metadata"`
}

type answerVersion struct {
	Generation uint64        `json:"generation,string"`
	Path       nix.StorePath `json:"path"`
}

// printGeneration prints a generation that was made or fetched, with further rows.
func (a *app) printGeneration(name pointer.Name, g pointer.Generation, more ...site.Row) error {
	rows := site.Describe(name, g)
	for _, row := range more {
		rows.Add(row.Name, row.Value)
	}
	if a.asJSON {
		return a.printJSON(answer{answerVersion{g.Number, g.Path}, rows})
	}
	return a.printRows(rows)
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
