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
)

// A Step is what Concourse starts one of the three programs with.
type Step struct {
	Stdin   io.Reader
	Dir     string // the first argument: in's destination, out's sources
	Getenv  func(string) string
	Console *Console
}

// memoryLimit is where the garbage collector begins to work harder, in bytes.
// What is in use stays well below; garbage, which consists of buffers of
// megabytes that are soon gone through, would otherwise double it.
const memoryLimit = 192 << 20

// Start bounds the process's memory and returns the context for all that it is
// to do: SIGINT and SIGTERM end it; a second one ends the program.
func Start() context.Context {
	debug.SetMemoryLimit(memoryLimit)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx
}

// Main runs a program's story as Concourse wants it: its request comes from
// stdin, its answer goes to stdout as JSON, everything for people to stderr.
// Main returns the exit status. SIGINT and SIGTERM end the story in order.
func Main(story func(context.Context, Step) (any, error)) int {
	ctx := Start()
	step := Step{Stdin: os.Stdin, Getenv: os.Getenv, Console: NewConsole(os.Stderr, os.Getenv)}
	if len(os.Args) > 1 {
		step.Dir = os.Args[1]
	}
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
