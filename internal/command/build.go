package command

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/resource"
)

func newBuild(a *app) *cobra.Command {
	var r recipe
	var paths, suffix string
	var all bool
	var workers int
	cmd := &cobra.Command{
		Use:   "build --flake DIR (--all | HOST…)",
		Short: "Build the hosts of a flake together and push their closures",
		Long: `Evaluate hosts, a few at a time and each by itself, build together what the cache
lacks of their closures, and push the union, each path once. A HOST is the name of
one of the flake's nixosConfigurations, or a pattern for some, such as 'web-*'.

A host that fails doesn't stop the others. It is named in the end, and the exit
status is 1 then.

No host's pointer is moved, unless --suffix says which pointers are to be. --paths
leaves the closures' store paths for puts to take (store_path: paths/web-1).`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.flake == "" {
				return misuse{hint.With(errors.New("hosts of which flake?"), "name it by --flake: a directory, or any reference to a flake")}
			}
			if all == (len(args) > 0) {
				return misuse{hint.With(errors.New("which hosts are to be built?"), "want either --all, or names and patterns such as web-1 'db-*'")}
			}
			if all {
				args = []string{"*"}
			}
			params := map[string]any{"hosts": args}
			if err := r.addTo(params); err != nil {
				return err
			}
			if cmd.Flags().Changed("suffix") {
				params["suffix"] = suffix
			}
			if workers != 0 {
				params["eval_workers"] = workers
			}
			return a.build(cmd, params, paths)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.flake, "flake", "", "the `flake` that the hosts are of: a directory, or any reference to one")
	r.addFlakeFlags(flags)
	flags.BoolVar(&all, "all", false, "build all hosts of the flake")
	flags.StringVar(&paths, "paths", "", "a `directory` to leave a file in for each host, with its store path")
	flags.StringVar(&suffix, "suffix", "", "also move the pointers that have the hosts' names and this `text` behind, such as -candidate; if it is empty, the hosts' own")
	flags.IntVar(&workers, "eval-workers", 0, "how many hosts to evaluate side by side (default: what cores and memory allow)")
	return cmd
}

// build builds hosts, and tells which closures there are, also if there aren't
// all of them.
func (a *app) build(cmd *cobra.Command, params map[string]any, paths string) error {
	source, err := a.settings.sourceOfMany()
	if err != nil {
		return err
	}
	stdin, err := json.Marshal(request{Source: source, Params: params})
	if err != nil {
		return err
	}
	built, err := resource.Build(cmd.Context(), resource.Step{Stdin: strings.NewReader(string(stdin)), Dir: "/", Getenv: os.Getenv, Console: a.console})
	if paths != "" {
		err = errors.Join(writePaths(paths, built), err)
	}
	if a.asJSON {
		return errors.Join(a.printJSON(built), err)
	}
	rows := [][]string{{"HOST", "PATH"}}
	for _, b := range built {
		if !b.Path.IsZero() {
			rows = append(rows, []string{b.Host, b.Path.String()})
		}
	}
	if len(rows) > 1 {
		err = errors.Join(a.printTable(rows), err)
	}
	return err
}

// writePaths leaves a file for each host, named by it, that holds its store path.
// Of a host that has failed, none is left that an earlier build has written.
func writePaths(dir string, built []resource.BuiltHost) error {
	if len(built) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, b := range built {
		file := filepath.Join(dir, b.Host)
		err := os.Remove(file)
		if !b.Path.IsZero() {
			err = os.WriteFile(file, []byte(b.Path.String()+"\n"), 0o644)
		} else if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}
