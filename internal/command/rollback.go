package command

import (
	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
)

func newRollback(a *app) *cobra.Command {
	var to uint64
	var reason string
	cmd := &cobra.Command{
		Use:   "rollback [POINTER]",
		Short: "Go back to an earlier generation",
		Long: `Give a pointer a new generation with the path of an earlier one: numbers only
grow. Without --to, that is the last one before the newest with another path;
several times in a row, this goes back further and further. Nothing is built or
uploaded.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := pointerArg(args)
			if err != nil {
				return err
			}
			s, p, err := a.open(cmd.Context(), name)
			if err != nil {
				return err
			}
			move, err := publish.Rollback(cmd.Context(), publish.RollbackRequest{
				Site: s, Console: a.console, Pointer: p.Name, To: to, Reason: reason,
			})
			if err != nil {
				return err
			}
			return a.printMove(p.Name, move.Generation)
		},
	}
	cmd.Flags().Uint64Var(&to, "to", 0, "the `generation` to go back to")
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for those who read the history")
	return cmd
}
