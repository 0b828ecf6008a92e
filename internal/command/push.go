package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/resource"
)

func newPush(a *app) *cobra.Command {
	var file, attribute, closure, message, ifGeneration string
	cmd := &cobra.Command{
		Use:   "push [PATH]",
		Short: "Push a closure to the cache and move the pointer to it",
		Long: `Push a closure to the cache, as far as it isn't there, and move the pointer to it.
PATH is a store path, or a symlink or file that leads to one, such as result. With
--file, a Nix expression is built first. With --closure, it is taken from a binary
cache or a store in a directory, or a tar of either; no Nix is needed for that.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := a.settings.source("")
			if err != nil {
				return err
			}
			params := map[string]any{}
			for key, name := range map[string]string{"file": file, "closure": closure, "store_path": strings.Join(args, "")} {
				if name == "" {
					continue
				}
				if params[key], err = inRoot(name); err != nil {
					return err
				}
			}
			if len(params) == 0 {
				return misuse{hint.With(errors.New("what is to be pushed?"), "name a store path or a symlink to one, --file or --closure")}
			}
			for key, value := range map[string]string{"attribute": attribute, "message": message, "if_generation": ifGeneration} {
				if value != "" {
					params[key] = value
				}
			}
			return a.run(cmd.Context(), resource.Out, request{Source: source, Params: params}, "/")
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&file, "file", "f", "", "a Nix expression `file` to build")
	flags.StringVarP(&attribute, "attribute", "A", "", "the `attribute` of it")
	flags.StringVar(&closure, "closure", "", "a `directory` or tar that holds the closure")
	flags.StringVarP(&message, "message", "m", "", "`why`, for those who read the history")
	flags.StringVar(&ifGeneration, "if-generation", "", "move the pointer only if this `number` is its newest generation's; 0: if it has none")
	return cmd
}

// inRoot is the name of a file as a put has it whose directory of inputs is /.
// Store paths stay as they are.
func inRoot(name string) (string, error) {
	if strings.HasPrefix(name, nix.StoreDir+"/") {
		return name, nil
	}
	if _, err := os.Lstat(name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		return "", misuse{err}
	}
	// The last one may be a symlink into a store that isn't here; the others are
	// resolved, for a put doesn't follow absolute ones.
	dir, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return "", err
	}
	return filepath.Rel("/", filepath.Join(dir, filepath.Base(name)))
}
