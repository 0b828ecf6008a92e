package command

import (
	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

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
			before, err := a.findArg(cmd.Context(), args, 0)
			if err != nil {
				return err
			}
			after, err := a.findArg(cmd.Context(), args, 1)
			if err != nil {
				return err
			}
			var closures [2]*cache.Closure
			for i, g := range []found{before, after} {
				if closures[i], err = g.site.Cache.Closure(cmd.Context(), g.Path); err != nil {
					return err
				}
			}
			changed := site.Compare(&before.Generation, closures[0], after.Generation, closures[1])
			if a.asJSON {
				return a.printJSON(changed)
			}
			return a.printChanges(changed)
		},
	}
}
