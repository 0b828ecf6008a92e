package command

import "github.com/spf13/cobra"

func newDiff(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Tell what generation B changes against generation A",
		Long: `Tell what a generation changes against another, as nix store diff-closures
would: packages that come, go or change their version, sizes, and whether a reboot
is due. Both are REFs, such as web-1:11 and web-1:12, or web-1 and web-1-candidate.
Nothing is downloaded but two manifests.`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, before, err := a.findArg(cmd.Context(), args, 0)
			if err != nil {
				return err
			}
			engine, after, err := a.findArg(cmd.Context(), args, 1)
			if err != nil {
				return err
			}
			changed, err := engine.Compare(cmd.Context(), before, after)
			if err != nil {
				return err
			}
			if a.asJSON {
				return a.printJSON(changed)
			}
			return a.printChanges(changed)
		},
	}
}
