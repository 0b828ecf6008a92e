package host

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A run is one Follow at work.
type run struct {
	host    *Host
	config  Config // that of the trial, while there is one that an earlier run has begun
	request Request
	state   *State
	boot    string // names the present boot
	units   Units
	kind    Kind          // of the trial that is to begin
	store   *nixcmd.Store // nil until somebody needs it
}

// Follow makes one run. An error is one of the run itself, such as a disk that
// is full; whatever becomes of a generation is an [Outcome], and so is a cache
// that is away.
//
// It can be killed at any instant, and repeated: see the package comment.
func (h *Host) Follow(ctx context.Context, request Request) (Outcome, error) {
	lock, err := takeLock(h.Config.StateDir)
	if errors.Is(err, errBusy) {
		return Outcome{Result: Waiting, Sentence: "another run is under way", At: h.now().Unix()}, nil
	}
	if err != nil {
		return Outcome{}, err
	}
	defer lock.release()
	r, err := h.open(request)
	if err != nil {
		return Outcome{}, err
	}
	defer r.close()
	err = r.follow(ctx)
	if ctx.Err() != nil {
		err = errors.Join(err, r.interrupted())
	}
	return r.end(ctx, err)
}

// interrupted writes down that the run of a trial was told to end. That is no
// verdict, nor is it a system that never came back.
func (r *run) interrupted() error {
	if t := r.state.Trial; t == nil || t.Stage != stageTrying {
		return nil
	}
	r.state.Trial.Interrupted = true
	return r.save("interrupted")
}

// open begins a run of whoever has the lock.
func (h *Host) open(request Request) (*run, error) {
	r := &run{host: h, config: h.Config, request: request}
	var err error
	if r.state, err = ReadState(h.Config.StateDir); err != nil {
		return nil, err
	}
	if r.boot, err = h.bootID(); err != nil {
		return nil, err
	}
	self, err := h.self()
	if err != nil {
		return nil, err
	}
	r.units, err = openUnits(h.Config.Units, h.Config.StateDir, self)
	return r, err
}

// follow is the whole story. It ends with nil if the newest generation runs now
// and was not before, with an *ended for any other outcome.
func (r *run) follow(ctx context.Context) error {
	if err := r.settle(ctx); err != nil {
		return err
	}
	g, err := r.read(ctx)
	if err != nil {
		return err
	}
	old, err := r.decide(g)
	if err != nil {
		return err
	}
	if err := r.fetch(ctx, g); err != nil {
		return err
	}
	if err := r.prepare(ctx, g, old); err != nil {
		return err
	}
	if err := r.try(ctx, g, old); err != nil {
		return err
	}
	if err := r.prove(ctx); err != nil {
		return err
	}
	if r.state.Trial.Stage == stageCondemned {
		return r.leave(ctx)
	}
	return r.keep(ctx)
}

// end makes what follow has returned the outcome, and tells it.
func (r *run) end(ctx context.Context, err error) (Outcome, error) {
	var e *ended
	if !errors.As(err, &e) {
		return Outcome{}, err
	}
	outcome := e.Outcome
	outcome.At = r.host.now().Unix()
	news := r.state.Last == nil || r.state.Last.Result != outcome.Result || r.state.Last.Generation != outcome.Generation
	r.state.Last = &outcome
	switch outcome.Result {
	case NothingNew, Switched, Tested:
		r.state.Success = outcome.At
	}
	if err := r.save("outcome"); err != nil {
		return outcome, err
	}
	r.tell(ctx, outcome, news)
	return outcome, nil
}

// ends is an outcome about a generation, as follow returns it.
func ends(result Result, g ID, format string, args ...any) *ended {
	sentence := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	e := &ended{Outcome{Result: result, Generation: g.Number, Path: g.Path, Sentence: sentence}}
	for _, arg := range args {
		if err, ok := arg.(error); ok {
			e.Hints = append(e.Hints, hint.Of(err)...)
		}
	}
	return e
}

// save writes the state, after which the step of that name is done.
func (r *run) save(step string) error {
	if err := r.state.write(r.host.Config.StateDir); err != nil {
		return fmt.Errorf("remembering what was done: %w", err)
	}
	r.changed(step)
	return nil
}

func (r *run) changed(step string) {
	if r.host.Changed != nil {
		r.host.Changed(step)
	}
}

func (r *run) log(format string, args ...any) { r.host.Log(format, args...) }

// system is what runs and what the profile leads to, now.
func (r *run) system() (System, error) {
	running, err := storePathOf(r.config.Running)
	if err != nil {
		return System{}, fmt.Errorf("what runs: %w", err)
	}
	profile, err := storePathOf(r.config.Profile)
	if err != nil {
		return System{}, fmt.Errorf("the profile: %w", err)
	}
	return System{running, profile}, nil
}

// open opens the store once somebody needs it.
func (r *run) openStore(ctx context.Context) (*nixcmd.Store, error) {
	if r.store != nil {
		return r.store, nil
	}
	var err error
	r.store, err = nixcmd.Open(ctx, nixcmd.Options{})
	return r.store, err
}

func (r *run) close() {
	if r.store != nil {
		r.store.Close()
	}
}

// outputFile is where the output of activations goes.
func (r *run) outputFile() string { return filepath.Join(r.host.Config.StateDir, "activation.log") }

// activate runs an action of a system's activation, and once more if it fails:
// that mends much, such as a unit that was slow. If ctx ends, it returns at once,
// and the action goes on: half of an activation is worse than either system. The
// next run ends it, if it still has to be.
func (r *run) activate(ctx context.Context, path nix.StorePath, action string, env ...string) error {
	var err error
	for range 2 {
		done := make(chan error, 1)
		go func() {
			limited, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Duration(r.config.ActivationTimeout),
				fmt.Errorf("it took longer than %s", r.config.ActivationTimeout))
			defer cancel()
			done <- r.units.Run(limited, activationUnit, r.outputFile(), env, r.config.activation(path, action)...)
		}()
		select {
		case err = <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.changed("activation " + action)
		if err == nil {
			break
		}
		r.log("%v", err)
	}
	return err
}

// idName names a generation for a sentence.
func (r *run) idName(id ID) string {
	return fmt.Sprintf("generation %d of %s", id.Number, r.state.Pointer)
}

func (r *run) nameOf(g pointer.Generation) string { return r.idName(idOf(g)) }
