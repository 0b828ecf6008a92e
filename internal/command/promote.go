package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/tempdir"
)

func newPromote(a *app) *cobra.Command {
	var to []string
	var allowOlder bool
	var p publication
	cmd := &cobra.Command{
		Use:   "promote REF",
		Short: "Move the pointer to what was tested under another one",
		Long: `Give the source's pointer a generation with the path of another pointer's: nothing
is built, and nothing is uploaded that is in the cache. If the source has from, the
other pointer is in that cache. REF may also be the directory of a get or a fetch.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			candidate := args[0]
			if _, err := os.Stat(filepath.Join(candidate, "generation.json")); err != nil {
				dir, err := tempdir.New("candidate")
				if err != nil {
					return err
				}
				defer dir.Remove()
				candidate = dir.Path()
				if err := a.candidate(cmd.Context(), args[0], candidate); err != nil {
					return err
				}
			}
			directory, err := inRoot(candidate)
			if err != nil {
				return err
			}
			params := map[string]any{"promote": directory, "allow_older": allowOlder}
			if len(to) > 0 {
				params["to"] = to
			}
			return a.publish(cmd.Context(), p, params)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&to, "to", nil, "further `pointers` to move, before the source's own")
	flags.BoolVar(&allowOlder, "allow-older", false, "promote it although a later one was promoted before")
	p.addFlags(flags)
	return cmd
}

// candidate leaves in a directory what a promotion takes of a get.
func (a *app) candidate(ctx context.Context, ref, dir string) error {
	r, err := parseReference(ref)
	if err != nil {
		return err
	}
	if r.pointer == "" {
		return misuse{hint.With(errors.New("promoted from which pointer?"), "want POINTER, POINTER:12, or the directory of a get")}
	}
	engine, err := a.open(ctx, "")
	if err != nil {
		return err
	}
	return engine.Candidate(ctx, r.pointer, r.number, dir)
}
