package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

func newShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "show [REF]",
		Short:             "Show a generation and what it changed",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := a.findArg(cmd.Context(), args, 0)
			if err != nil {
				return err
			}
			if a.asJSON {
				return a.printJSON(g.Generation)
			}
			rows := site.Describe(g.pointer.Name, g.Generation)
			for _, s := range g.Signatures {
				rows.Add("signed by", s.Name)
			}
			if err := a.printRows(rows); err != nil {
				return err
			}
			var changed *changes.Changes
			closure, err := g.pointer.Closure(cmd.Context(), g.Generation)
			if err == nil {
				changed, err = g.pointer.Changes(cmd.Context(), g.history, g.Generation, closure, g.site.Cache.Closure)
			}
			if err != nil {
				a.console.Warn("%v", err)
				return nil
			}
			fmt.Fprintln(a.stdout)
			return a.printChanges(changed)
		},
	}
}
