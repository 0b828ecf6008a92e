package command

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/console"
)

func newHistory(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "history [POINTER]",
		Short:             "List the generations of a pointer, newest first",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := pointerArg(args)
			if err != nil {
				return err
			}
			_, p, err := a.open(cmd.Context(), name)
			if err != nil {
				return err
			}
			history, err := a.history(cmd.Context(), p)
			if err != nil {
				return err
			}
			if a.asJSON {
				return a.printJSON(history.Generations)
			}
			rows := [][]string{{"GENERATION", "CREATED", "REVISION", "PATH", "MESSAGE"}}
			for _, g := range history.Generations {
				rows = append(rows, []string{
					strconv.FormatUint(g.Number, 10), console.Time(g.Created), brief(g.Details.Revision), g.Path.String(), subject(g.Details.Message),
				})
			}
			return a.printTable(rows)
		},
	}
}

// subject is the first line of a message, as of a commit's.
func subject(message string) string {
	first, rest, _ := strings.Cut(message, "\n")
	if strings.TrimSpace(rest) != "" {
		first += " …"
	}
	return first
}

// brief is a commit as git abbreviates it, and whether it is all of it.
func brief(revision string) string {
	const dirty = "-dirty"
	commit, isDirty := strings.CutSuffix(revision, dirty)
	switch {
	case commit == "":
		return "-"
	case isDirty:
		return commit[:min(12, len(commit))] + dirty
	}
	return commit[:min(12, len(commit))]
}
