package command

import (
	"errors"
	"io/fs"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/resource"
)

func newFetch(a *app) *cobra.Command {
	var format, compression string
	cmd := &cobra.Command{
		Use:   "fetch REF DIRECTORY",
		Short: "Download a generation's closure, verified, without Nix",
		Long: `Download the closure of a generation into a directory, which is empty or new, and
verify everything on the way. It gets the files that a get of the resource leaves.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseReference(args[0])
			if err != nil {
				return err
			}
			_, g, err := a.find(cmd.Context(), r)
			if err != nil {
				return err
			}
			source, err := a.settings.source(r.pointer)
			if err != nil {
				return err
			}
			params := map[string]any{"format": format}
			if compression != "" {
				params["compression"] = compression
			}
			made := os.Mkdir(args[1], 0o777)
			if made != nil && !errors.Is(made, fs.ErrExist) {
				return made
			}
			err = a.run(cmd.Context(), resource.In, request{
				Source:  source,
				Version: map[string]any{"generation": strconv.FormatUint(g.Number, 10), "path": g.Path},
				Params:  params,
			}, args[1])
			if err != nil && made == nil {
				os.Remove(args[1])
			}
			return err
		},
	}
	cmd.Flags().StringVar(&format, "format", "rootfs", "`what` to leave: rootfs (a task's image, which is a store), cache (a binary cache), result (the files of the path alone), archive (a tar of a store) or none (only the small files)")
	cmd.Flags().StringVar(&compression, "compression", "", "`of` an archive: gzip or zstd (default gzip)")
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"rootfs", "cache", "result", "archive", "none"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("compression", cobra.FixedCompletions([]string{"gzip", "zstd"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
