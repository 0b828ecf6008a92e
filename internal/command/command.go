// Package command is nixos-closure: what the resource does, for people, tasks and
// hosts.
//
// Each subcommand has a file of its own, and does three things there: it reads its
// arguments into the types of the rooms below, calls one function there, and
// prints what that answers. Advice is given in the words of a command line.
//
// Results go to stdout: tables for people, or JSON with --json, in the forms of
// docs/formats.md where that has one. Everything else goes to stderr. The exit
// status is one of those below.
//
// Which cache, whose keys and which pointer are said by the keys that a pipeline's
// source has: in a file, in the environment, and for some of them by flags.
// Secrets have no flags: any process of the machine may read another's arguments.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
	"github.com/nixos-closure/nixos-closure-resource/internal/version"
)

// The exit status. These numbers don't change.
const (
	done    = 0
	failed  = 1
	misused = 2 // an argument or a setting is wrong: nothing was done
	damaged = 3 // verify has found damage
	refused = 4 // the pointer was not moved: somebody else has moved it meanwhile, or to something newer
)

// memoryLimit is where the garbage collector begins to work harder, in bytes: as
// in the programs of the resource.
const memoryLimit = 192 << 20

// Main runs nixos-closure with the process's arguments and returns its exit
// status.
func Main() int {
	a := &app{
		stdout:  os.Stdout,
		colour:  term.IsTerminal(int(os.Stdout.Fd())) && console.New(os.Stdout, os.Getenv, words).Colour(),
		told:    term.IsTerminal(int(os.Stdout.Fd())) && term.IsTerminal(int(os.Stderr.Fd())),
		console: console.New(os.Stderr, os.Getenv, words),
	}
	debug.SetMemoryLimit(memoryLimit)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program
	if status, ok := a.helper(ctx, os.Args[1:]); ok {
		return status
	}
	ctx = blob.Noticing(ctx, a.console.Retrying)
	root := newRoot(a)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil && !a.began {
		err = hint.Usage(explain(cmd, err))
	}
	if outcome := (followed{}); err != nil && !errors.As(err, &outcome) {
		a.console.Fail(err)
	}
	return status(err)
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "nixos-closure",
		Short: "Publish, inspect, promote and verify NixOS closures in a binary cache",
		Long: `nixos-closure publishes NixOS closures to a Nix binary cache and moves pointers,
which say which closure a host should run.

Where a command takes REF, that is a generation: POINTER:12, POINTER for its
newest, or 12 for one of the pointer that --pointer names.

Which cache, whose keys and which pointer are meant, the keys of a pipeline's source
say. They come from the file of --config, in YAML or JSON; from the environment, as
NIXOS_CLOSURE_SIGNING_KEY for signing_key; and from flags. What comes later in this
list wins.

Exit status: 0 done; 1 failed; 2 wrong arguments or settings, nothing was done;
3 verify has found damage; 4 refused to move the pointer, because somebody else has
moved it meanwhile, or to something newer. That of follow may be one of its own, too.`,
		Version:            version.Number,
		SilenceErrors:      true,
		SilenceUsage:       true,
		DisableSuggestions: true, // explain makes them
		PersistentPreRun:   func(*cobra.Command, []string) { a.began = true },
	}
	root.SetOut(a.stdout)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	a.settings.addFlags(root.PersistentFlags())
	root.PersistentFlags().BoolVar(&a.asJSON, "json", false, "print JSON instead of tables")
	root.AddCommand(
		newPush(a), newBuild(a), newPromote(a), newRollback(a),
		newHistory(a), newShow(a), newDiff(a),
		newFetch(a), newVerify(a),
		newFollow(a), newStatus(a), newHold(a), newRelease(a),
	)
	return root
}

// An app is what the subcommands share.
type app struct {
	stdout   io.Writer
	colour   bool // of what goes there
	told     bool // who reads it reads the console, too
	console  *console.Console
	settings settings
	asJSON   bool
	began    bool // the arguments were understood
}

// open opens the site, with another pointer than its settings name unless name is
// "", and returns it with that pointer.
func (a *app) open(ctx context.Context, name pointer.Name) (*site.Site, *site.Pointer, error) {
	config, _, err := a.settings.read(name, true)
	if err != nil {
		return nil, nil, err
	}
	s, err := site.Open(ctx, config, a.console.Caution)
	if err != nil {
		return nil, nil, err
	}
	return s, s.Pointer(config.Pointer), nil
}

// openToBuild opens the site, and says how to use Nix.
func (a *app) openToBuild(ctx context.Context, needPointer bool) (*site.Site, build.Nix, error) {
	config, nix, err := a.settings.read("", needPointer)
	if err != nil {
		return nil, nix, err
	}
	s, err := site.Open(ctx, config, a.console.Caution)
	return s, nix, err
}

// A damage is that of closures that were verified.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

// status is the exit status for an error.
func status(err error) int {
	var broken damage
	var moved *pointer.MovedError
	var older *pointer.OlderError
	var overtaken *pointer.OvertakenError
	var run followed
	switch {
	case err == nil:
		return done
	case errors.As(err, &run):
		return run.outcome.Result.Status()
	case hint.IsUsage(err):
		return misused
	case errors.As(err, &broken):
		return damaged
	case errors.As(err, &moved), errors.As(err, &older), errors.As(err, &overtaken):
		return refused
	default:
		return failed
	}
}

// explain words an error of cobra's about the arguments of cmd.
func explain(cmd *cobra.Command, err error) error {
	if word, ok := strings.CutPrefix(err.Error(), "unknown command \""); ok {
		word, _, _ = strings.Cut(word, "\"")
		err = fmt.Errorf("unknown command %q", word)
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(word); len(near) > 0 {
			return hint.With(err, "did you mean %s?", strings.Join(near, " or "))
		}
	}
	return hint.With(err, "usage: %s; %s --help tells more", cmd.UseLine(), cmd.CommandPath())
}
