package command

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/resource"

	"errors"
)

func newPromote(a *app) *cobra.Command {
	var to []string
	var allowOlder bool
	var message, ifGeneration string
	cmd := &cobra.Command{
		Use:   "promote REF",
		Short: "Move the pointer to what was tested under another one",
		Long: `Give the source's pointer a generation with the path of another pointer's: nothing
is built, and nothing is uploaded that is in the cache. If the source has from, the
other pointer is in that cache. REF may also be the directory of a get or a fetch.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := a.settings.source("")
			if err != nil {
				return err
			}
			candidate := args[0]
			if _, err := os.Stat(filepath.Join(candidate, "generation.json")); err != nil {
				r, err := parseReference(args[0])
				if err == nil && r.pointer == "" {
					err = misuse{hint.With(errors.New("promoted from which pointer?"), "want POINTER, POINTER:12, or the directory of a get")}
				}
				if err != nil {
					return err
				}
				engine, err := a.open(cmd.Context(), "")
				if err != nil {
					return err
				}
				if candidate, err = os.MkdirTemp("", "nixos-closure-"); err != nil {
					return err
				}
				defer os.RemoveAll(candidate)
				if err := engine.Candidate(cmd.Context(), r.pointer, r.number, candidate); err != nil {
					return err
				}
			}
			params := map[string]any{"allow_older": allowOlder}
			if params["promote"], err = inRoot(candidate); err != nil {
				return err
			}
			if len(to) > 0 {
				params["to"] = to
			}
			for key, value := range map[string]string{"message": message, "if_generation": ifGeneration} {
				if value != "" {
					params[key] = value
				}
			}
			return a.run(cmd.Context(), resource.Out, request{Source: source, Params: params}, "/")
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&to, "to", nil, "further `pointers` to move, before the source's own")
	flags.BoolVar(&allowOlder, "allow-older", false, "promote it although a later one was promoted before")
	flags.StringVarP(&message, "message", "m", "", "`why`, for those who read the history")
	flags.StringVar(&ifGeneration, "if-generation", "", "move the pointer only if this `number` is its newest generation's; 0: if it has none")
	return cmd
}
