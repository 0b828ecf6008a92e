// Package resource is the contract of a Concourse resource type, and nothing
// more: what the programs check, in and out read from stdin and their argument, and
// what they answer on stdout.
//
// [Check], [In] and [Out] each read a request, take it apart into the types of the
// rooms below, call one function there, and word the answer. Nothing else in this
// project knows Concourse's JSON, or that params name files by the inputs of a
// step. What a person reads goes to stderr, by a console that gives its advice in
// the words of a pipeline.
package resource

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // an image from scratch has no time zones of its own

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// A Step is what Concourse starts one of the three programs with.
type Step struct {
	Stdin   io.Reader
	Dir     string // the first argument: in's destination, out's sources
	Getenv  func(string) string
	Console *console.Console
}

// An Answer is what a get or a put says on stdout.
type Answer struct {
	Version  Version   `json:"version"`
	Metadata site.Rows `json:"metadata"`
}

// memoryLimit is where the garbage collector begins to work harder, in bytes.
// What is in use stays well below; garbage, which consists of buffers of
// megabytes that are soon gone through, would otherwise double it.
const memoryLimit = 192 << 20

// Main runs a program's story as Concourse wants it: its request comes from
// stdin, its answer goes to stdout as JSON, everything for people to stderr.
// Main returns the exit status. SIGINT and SIGTERM end the story in order; a
// second one ends the program.
func Main(story func(context.Context, Step) (any, error)) int {
	debug.SetMemoryLimit(memoryLimit)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	step := Step{Stdin: os.Stdin, Getenv: os.Getenv, Console: console.New(os.Stderr, os.Getenv, nil)}
	if len(os.Args) > 1 {
		step.Dir = os.Args[1]
	}
	ctx = blob.Noticing(ctx, step.Console.Retrying)
	answer, err := story(ctx, step)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	} else if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil {
		step.Console.Fail(err)
		return 1
	}
	return 0
}
