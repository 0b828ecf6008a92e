package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

func newBuild(a *app) *cobra.Command {
	var e expression
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
			if err := nixcmd.ProtectProcess(); err != nil {
				return err
			}
			if e.flake == "" {
				return hint.Usage(hint.With(errors.New("hosts of which flake?"), "name it by --flake: a directory, or any reference to a flake"))
			}
			if all == (len(args) > 0) {
				return hint.Usage(hint.With(errors.New("which hosts are to be built?"), "want either --all, or names and patterns such as web-1 'db-*'"))
			}
			if all {
				args = []string{"*"}
			}
			v, err := e.parse()
			if err != nil {
				return err
			}
			if v.flake.Host != "" {
				return hint.Usage(hint.With(errors.New("--flake: one host is named by what follows #"), "name hosts by themselves"))
			}
			if workers < 0 {
				return hint.Usage(fmt.Errorf("--eval-workers: want a number of evaluations side by side, got %d", workers))
			}
			r := build.HostsRequest{
				Console: a.console, Installable: v.Installable, Patterns: args, When: v.when, Workers: workers,
				Revision: v.revision, AskRevision: v.askRevision,
			}
			r.Move = cmd.Flags().Changed("suffix")
			r.PointerOf = func(host string) string { return host + suffix }
			return a.build(cmd.Context(), r, paths)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&e.flake, "flake", "", "the `flake` that the hosts are of: a directory, or any reference to one")
	e.addFlakeFlags(flags)
	flags.BoolVar(&all, "all", false, "build all hosts of the flake")
	flags.StringVar(&paths, "paths", "", "a `directory` to leave a file in for each host, with its store path")
	flags.StringVar(&suffix, "suffix", "", "also move the pointers that have the hosts' names and this `text` behind, such as -candidate; if it is empty, the hosts' own")
	flags.IntVar(&workers, "eval-workers", 0, "how many hosts to evaluate side by side (default: what cores and memory allow)")
	return cmd
}

// A builtHost is a host that was built, in JSON.
type builtHost struct {
	Host  string        `json:"host"`
	Path  nix.StorePath `json:"path,omitzero"`   // what it is to run; the cache has its closure
	Error string        `json:"error,omitempty"` // why there is no path
}

// build builds hosts, and tells which closures there are, also if there aren't
// all of them.
func (a *app) build(ctx context.Context, r build.HostsRequest, paths string) error {
	s, n, err := a.openToBuild(ctx, false)
	if err != nil {
		return err
	}
	r.Site, r.Nix, r.Provenance = s, n, site.Provenance(os.Getenv, s.Provenance)
	result, err := build.Hosts(ctx, r)
	var built []builtHost
	if result != nil {
		for _, h := range result.Hosts {
			b := builtHost{Host: h.Name, Path: h.Path}
			if h.Err != nil {
				b.Error = h.Err.Error()
			}
			built = append(built, b)
		}
		publish.SubstitutersFor(a.console, s, result.Closures...)
	}
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
func writePaths(dir string, built []builtHost) error {
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
