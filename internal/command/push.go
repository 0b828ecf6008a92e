package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
	"github.com/nixos-closure/nixos-closure-resource/internal/store"
)

func newPush(a *app) *cobra.Command {
	var closure string
	var e expression
	var m move
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
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := nixcmd.ProtectProcess(); err != nil {
				return err
			}
			path := strings.Join(args, "")
			if err := oneOf(closure, path, &e); err != nil {
				return err
			}
			v, err := e.parse()
			if err != nil {
				return err
			}
			var root nix.StorePath
			if path != "" {
				if root, err = readStorePath(path); err != nil {
					return err
				}
			}
			if closure != "" {
				if closure, err = existing(closure); err != nil {
					return hint.Usage(err)
				}
			}
			s, n, err := a.openToBuild(cmd.Context(), true)
			if err != nil {
				return err
			}
			var candidate publish.Candidate
			switch {
			case closure != "":
				candidate = publish.Import{File: closure, Root: root}
			case e.isSet():
				host := v.flake.SetHost(&v.Installable, s.Config.Pointer)
				candidate = build.Expression{Installable: v.Installable, Host: host, When: v.when, Nix: n}
			default:
				candidate = build.StorePath{Path: root, Nix: n}
			}
			return a.publish(cmd.Context(), s, m, publish.Request{Candidate: candidate})
		},
	}
	flags := cmd.Flags()
	e.addFlags(flags)
	flags.StringVar(&closure, "closure", "", "a `directory` or tar that holds the closure")
	m.addFlags(flags)
	return cmd
}

// oneOf refuses arguments of a push that name no closure, or several.
func oneOf(closure, path string, e *expression) error {
	var given []string
	for _, what := range []struct {
		flag  string
		isSet bool
	}{{"--file", e.file != ""}, {"--flake", e.flake != ""}, {"--closure", closure != ""}, {"PATH", path != "" && closure == ""}} {
		if what.isSet {
			given = append(given, what.flag)
		}
	}
	switch {
	case len(given) > 1:
		return hint.Usage(hint.With(fmt.Errorf("%s name %s, and one is published", strings.Join(given, " and "), console.Count(len(given), "closure")), "keep one of them"))
	case len(given) == 0:
		return hint.Usage(hint.With(errors.New("what is to be pushed?"), "name a store path or a symlink to one, --flake, --file or --closure"))
	}
	return nil
}

// readStorePath returns the store path that a person means: one, or a symlink or
// file that leads to one.
func readStorePath(name string) (nix.StorePath, error) {
	if strings.HasPrefix(name, nix.StoreDir+"/") {
		path, err := nix.ParseStorePath(name)
		return path, hint.Usage(err)
	}
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return nix.StorePath{}, hint.Usage(fmt.Errorf("%s: %w", name, fs.ErrNotExist))
	}
	path, err := store.FindStorePath(name)
	return path, hint.Usage(err)
}

// A move says how push and promote move pointers.
type move struct {
	message, ifGeneration string
}

func (m *move) addFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&m.message, "message", "m", "", "`why`, for those who read the history")
	flags.StringVar(&m.ifGeneration, "if-generation", "", "move the pointer only if this `number` is its newest generation's; 0: if it has none")
}

// publish publishes a candidate under the settings' pointer, and prints the
// generation.
func (a *app) publish(ctx context.Context, s *site.Site, m move, r publish.Request) error {
	if len(m.message) > pointer.MaxMessage {
		return hint.Usage(fmt.Errorf("--message: it has %d bytes, and may have %d", len(m.message), pointer.MaxMessage))
	}
	if m.ifGeneration != "" {
		number, err := strconv.ParseUint(m.ifGeneration, 10, 64)
		if err != nil {
			return hint.Usage(fmt.Errorf("--if-generation: want the number of a generation, or 0, got %q", m.ifGeneration))
		}
		r.IfGeneration = &number
	}
	r.Site, r.Console, r.Pointer, r.Message = s, a.console, s.Config.Pointer, m.message
	result, err := publish.Run(ctx, r)
	if err != nil {
		return err
	}
	var rows site.Rows
	for _, moved := range result.Moves[:len(result.Moves)-1] {
		rows.Add("to "+string(moved.Pointer), fmt.Sprintf("generation %d", moved.Generation.Number))
	}
	closure, pushed := result.Pushed.Closure, result.Pushed
	rows.Add("sent", publish.Sent(pushed))
	rows.Add("already there", console.Amount(len(closure.Paths)-pushed.SentPaths, closure.NarSize()-pushed.SentNarSize))
	rows.Add("substituters", publish.SubstitutersFor(a.console, s, closure))
	return a.printMove(r.Pointer, result.Newest(), rows...)
}
