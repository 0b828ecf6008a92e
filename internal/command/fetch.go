package command

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/download"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
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
			ref, err := parseReference(args[0])
			if err != nil {
				return err
			}
			r := download.Request{Console: a.console, Generation: ref.number, Dir: args[1]}
			if r.Format, err = download.ParseFormat(format); err != nil {
				return hint.Usage(err)
			}
			if compression != "" {
				if r.Compression, err = download.ParseCompression(compression); err != nil {
					return hint.Usage(err)
				}
				if r.Format != download.Archive {
					return hint.Usage(errors.New("--compression is of an archive: want --format archive, too"))
				}
			}
			s, p, err := a.open(cmd.Context(), ref.pointer)
			if err != nil {
				return err
			}
			r.Site, r.Pointer = s, p.Name
			made := os.Mkdir(args[1], 0o777)
			if made != nil && !errors.Is(made, fs.ErrExist) {
				return made
			}
			result, err := download.Run(cmd.Context(), r)
			if err != nil {
				if made == nil {
					os.Remove(args[1])
				}
				return err
			}
			return a.printGeneration(p.Name, result.Generation)
		},
	}
	cmd.Flags().StringVar(&format, "format", "rootfs", "`what` to leave: rootfs (a task's image, which is a store), cache (a binary cache), result (the files of the path alone), archive (a tar of a store) or none (only the small files)")
	cmd.Flags().StringVar(&compression, "compression", "", "`of` an archive: gzip or zstd (default gzip)")
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"rootfs", "cache", "result", "archive", "none"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("compression", cobra.FixedCompletions([]string{"gzip", "zstd"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
