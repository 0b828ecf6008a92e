package command

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

func newPush(a *app) *cobra.Command {
	var closure string
	var r recipe
	var p publication
	cmd := &cobra.Command{
		Use:   "push [PATH]",
		Short: "Push a closure to the cache and move the pointer to it",
		Long: `Push a closure to the cache, as far as it isn't there, and move the pointer to it.
PATH is a store path, or a symlink or file that leads to one, such as result. With
--flake or --file, that is evaluated and, unless the cache has it, built first; of a
flake, without more words, the host that has the pointer's name. With --closure, it is taken from a binary
cache or a store in a directory, or a tar of either; no Nix is needed for that, and
PATH says which closure it is, if there are several.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			params := map[string]any{}
			for key, name := range map[string]string{"closure": closure, "store_path": strings.Join(args, "")} {
				if name == "" {
					continue
				}
				if params[key], err = inRoot(name); err != nil {
					return err
				}
			}
			if err := r.addTo(params); err != nil {
				return err
			}
			if len(params) == 0 {
				return misuse{hint.With(errors.New("what is to be pushed?"), "name a store path or a symlink to one, --flake, --file or --closure")}
			}
			return a.publish(cmd.Context(), p, params)
		},
	}
	flags := cmd.Flags()
	r.addFlags(flags)
	flags.StringVar(&closure, "closure", "", "a `directory` or tar that holds the closure")
	p.addFlags(flags)
	return cmd
}
