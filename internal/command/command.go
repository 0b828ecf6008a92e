// Package command is nixos-closure, the resource's engine for people and tasks.
//
// Each subcommand has a file of its own, and does three things there: it reads
// its arguments, calls the engine in package resource, and prints what that
// answers. What push, promote and fetch do is a put and a get, request and all.
//
// Results go to stdout: tables for people, or JSON with --json, in the forms of
// docs/formats.md where that has one. Everything else goes to stderr. The exit
// status is one of those below.
//
// A source is said by the keys that a pipeline has, in a file, in the
// environment, and for some of them by flags. Secrets have no flags: any process
// of the machine may read another's arguments.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/version"
	"github.com/nixos-closure/nixos-closure-resource/resource"
)

// The exit status. These numbers don't change.
const (
	done    = 0
	failed  = 1
	misused = 2 // an argument or the source is wrong: nothing was done
	damaged = 3 // verify has found damage
	refused = 4 // the pointer was not moved: it had moved meanwhile, or has a newer promotion
)

// Main runs nixos-closure with the process's arguments and returns its exit
// status.
func Main() int {
	a := &app{
		stdout:  os.Stdout,
		colour:  term.IsTerminal(int(os.Stdout.Fd())),
		console: resource.NewConsole(os.Stderr, os.Getenv),
	}
	ctx := resource.Start()
	if status, ok := a.helper(ctx, os.Args[1:]); ok {
		return status
	}
	root := newRoot(a)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil && !a.began {
		err = misuse{explain(cmd, err)}
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
newest, or 12 for one of the pointer that the source names.

The source has the keys of a pipeline's. They come from the file of --config, in
YAML or JSON; from the environment, as NIXOS_CLOSURE_SIGNING_KEY for signing_key;
and from flags. What comes later in this list wins.

Exit status: 0 done; 1 failed; 2 wrong arguments or source, nothing was done;
3 verify has found damage; 4 refused to move the pointer, because it has moved
meanwhile or has a newer promotion. That of follow may be one of its own, too.`,
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
	console  *resource.Console
	settings settings
	asJSON   bool
	began    bool // the arguments were understood
}

// open opens the source, with another pointer than it names unless that is "".
func (a *app) open(ctx context.Context, name pointer.Name) (*resource.Engine, error) {
	source, err := a.settings.source(name)
	if err != nil {
		return nil, err
	}
	return resource.Open(ctx, source, a.console)
}

// A request is one that Concourse could make of a put or a get.
type request struct {
	Source  json.RawMessage `json:"source"`
	Version map[string]any  `json:"version,omitempty"`
	Params  map[string]any  `json:"params"`
}

// run runs a put or a get in a directory and prints its answer.
func (a *app) run(ctx context.Context, story func(context.Context, resource.Step) (any, error), r request, dir string) error {
	stdin, err := json.Marshal(r)
	if err != nil {
		return err
	}
	answer, err := story(ctx, resource.Step{Stdin: strings.NewReader(string(stdin)), Dir: dir, Getenv: os.Getenv, Console: a.console})
	if err != nil {
		return err
	}
	return a.printAnswer(answer.(resource.Answer))
}

// A misuse is an error of whoever has typed the command.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

// A damage is that of closures that were verified.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

// status is the exit status for an error.
func status(err error) int {
	var wrong misuse
	var broken damage
	var moved *pointer.MovedError
	var older *pointer.OlderError
	var run followed
	switch {
	case err == nil:
		return done
	case errors.As(err, &run):
		return run.outcome.Result.Status()
	case errors.As(err, &wrong), resource.IsMistake(err):
		return misused
	case errors.As(err, &broken):
		return damaged
	case errors.As(err, &moved), errors.As(err, &older):
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
