package host

import (
	"context"
	"errors"
	"fmt"
)

// settle finishes a trial that an earlier run has left. The verdict is then in
// the state, and the run goes on, for there may be a newer generation.
func (r *run) settle(ctx context.Context) error {
	t := r.state.Trial
	if t == nil {
		return nil
	}
	// What holds is what the trial was begun with: the settings of today may be
	// those of the new system.
	r.config = t.Config
	defer func() { r.config = r.host.Config }()
	got, err := r.system()
	if err != nil {
		return err
	}
	if t.Stage == stageProven && got.Running == t.Path {
		r.log("%s was proven, and is now kept", r.idName(t.ID))
		return r.keep(ctx)
	}
	if t.inBoot(r.boot) && t.Stage == stageTrying && got.Running == t.Path {
		return r.proveBooted(ctx)
	}
	r.log("a run has ended while it tried %s (attempt %d, %s)", r.idName(t.ID), t.Attempt, t.Stage)
	if err := r.goBack(ctx); err != nil {
		return err
	}
	if t.Stage == stageTrying && t.Interrupted {
		return unlessEnded(r, r.postpone(ctx, "its trial was interrupted"))
	}
	if t.Stage != stageCondemned {
		if t.Attempt < maxAttempts {
			left := t.Old
			r.state.Left = &left
			if err := r.endTrial(ctx); err != nil {
				return err
			}
			return r.save("settled")
		}
		r.condemn(nil, "it never came back: %d attempts have ended without a verdict", t.Attempt)
	}
	return unlessEnded(r, r.judge(ctx))
}

// unlessEnded is err, unless that is a verdict, which is in the state and told.
func unlessEnded(r *run, err error) error {
	var verdict *ended
	if errors.As(err, &verdict) {
		r.log("%s", verdict.Sentence)
		return nil
	}
	return err
}

// EndTrialCommand is the first argument by which this program is asked to call
// EndTrial with the two that follow.
const EndTrialCommand = "end-trial"

// EndTrial ends a trial that has had no verdict by its deadline. It activates the
// remembered system, whatever has become of the run that has begun the trial; if
// that hangs, it is killed. The verdict is left to the next run.
//
// It reads nothing but the state: settings and network may be those of a system
// that doesn't work.
func EndTrial(ctx context.Context, dir, activation string, log func(string, ...any)) error {
	find := func() (*State, error) {
		s, err := ReadState(dir)
		if err != nil || s.Trial == nil || s.Trial.Activation != activation || s.Trial.Stage == stageProven || s.Trial.Back {
			return nil, err
		}
		return s, nil
	}
	if s, err := find(); s == nil {
		return err
	}
	lock, err := endHolder(ctx, dir)
	if err != nil {
		return err
	}
	defer lock.release()
	s, err := find() // it may have had its verdict just before its end
	if s == nil {
		return err
	}
	log("there is no verdict on %s by its deadline", fmt.Sprintf("generation %d of %s", s.Trial.Number, s.Pointer))
	h := &Host{Config: s.Trial.Config, Log: log}
	h.Config.StateDir = dir
	r, err := h.open(Request{})
	if err != nil {
		return err
	}
	defer r.close()
	err = r.goBack(ctx)
	var e *ended
	if errors.As(err, &e) && e.Result == Booting {
		log("%s", e.Sentence)
		return nil
	}
	return err
}
