package command

import (
	"strconv"

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
					strconv.FormatUint(g.Number, 10), console.Time(g.Created), brief(g.Details.Revision), g.Path.String(), g.Details.Message,
				})
			}
			return a.printTable(rows)
		},
	}
}

// brief is a commit as git abbreviates it.
func brief(revision string) string {
	if revision == "" {
		return "-"
	}
	return revision[:min(12, len(revision))]
}
