package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/resource"
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

// printAnswer prints what a put or a get has answered.
func (a *app) printAnswer(answer resource.Answer) error {
	if a.asJSON {
		return a.printJSON(answer)
	}
	return a.printMetadata(answer.Metadata)
}

func (a *app) printMetadata(m resource.Metadata) error {
	var rows [][]string
	for _, row := range m {
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

// moment writes seconds since 1970.
func moment(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
