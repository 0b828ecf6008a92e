package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/resource"
)

func newShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "show [REF]",
		Short:             "Show a generation and what it changed",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			engine, g, err := a.findArg(cmd.Context(), args, 0)
			if err != nil {
				return err
			}
			if a.asJSON {
				return a.printJSON(g)
			}
			rows := engine.Describe(g)
			for _, s := range g.Signatures {
				rows = append(rows, resource.Row{Name: "signed by", Value: s.Name})
			}
			if err := a.printMetadata(rows); err != nil {
				return err
			}
			changed, err := engine.Changes(cmd.Context(), g)
			if err != nil {
				a.console.Warn("%v", err)
				return nil
			}
			fmt.Fprintln(a.stdout)
			return a.printChanges(changed)
		},
	}
}
