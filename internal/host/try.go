package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// try begins a trial and activates the new system.
func (r *run) try(ctx context.Context, g pointer.Generation, old System) error {
	r.log("examining the system that runs, %s", old.Running)
	baseline := red(r.examine(ctx), nil)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(baseline) > 0 {
		r.log("red already, so not held against %s: %q", r.nameOf(g), baseline)
	}
	failedBefore := r.failedUnits(ctx)
	if err := r.begin(g, old, baseline); err != nil {
		return err
	}
	if r.kind == live { // a unit would not outlive the boot; the new one has its own
		if err := r.arm(ctx); err != nil {
			return err
		}
	}
	if err := r.unmoved(ctx, old); err != nil {
		r.state.Attempts.Count-- // nothing was tried
		return err
	}
	if r.kind == booted {
		return r.bootOnce(ctx)
	}
	r.log("activating %s, %s (attempt %d)", r.nameOf(g), g.Path, r.state.Trial.Attempt)
	err := r.activate(ctx, g.Path, "test")
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, systemd := r.units.(systemdUnits); systemd && exitCode(err) == unitsFailed {
		// Who has failed already is not held against the new system.
		blame := r.blameUnits(ctx, failedBefore)
		if blame == "" {
			return nil
		}
		err = errors.New(blame)
	}
	if err != nil {
		r.condemn(nil, "its activation failed: %v", err)
	}
	return nil
}

// begin writes down that a trial begins: whoever finds that, knows what to go
// back to.
func (r *run) begin(g pointer.Generation, old System, baseline []string) error {
	if err := r.config.addRoot(rememberedRoot, old.Running); err != nil {
		return err
	}
	r.changed("remembered")
	id := idOf(g)
	if r.state.Attempts.ID != id {
		r.state.Attempts = Attempts{ID: id}
	}
	r.state.Attempts.Count++
	r.state.Left = nil // until it is known what is left
	r.state.Trial = &Trial{
		ID:         id,
		Kind:       r.kind,
		Activation: rand.Text(),
		Attempt:    r.state.Attempts.Count,
		Boot:       r.boot,
		Began:      r.host.now().Unix(),
		Old:        old,
		Baseline:   baseline,
		Stage:      stageTrying,
		Config:     r.config,
	}
	return r.save("trial")
}

// arm has somebody go back who is no part of the new system, if there is no
// verdict in time.
func (r *run) arm(ctx context.Context) error {
	self, err := r.host.self()
	if err != nil {
		return err
	}
	err = r.units.Later(ctx, deadlineUnit, r.config.deadline(), self, EndTrialCommand, r.config.StateDir, r.state.Trial.Activation)
	if err != nil {
		return fmt.Errorf("having somebody go back at the deadline: %w", err)
	}
	r.changed("deadline")
	return nil
}

// unmoved ends the run, and the trial with it, if what runs or the profile is not
// what it must be.
func (r *run) unmoved(ctx context.Context, want ...System) error {
	got, err := r.system()
	if err != nil || slices.Contains(want, got) {
		return err
	}
	id := r.state.Trial.ID
	r.state.Drift, r.state.Left = &id, &want[0]
	if err := r.endTrial(ctx); err != nil {
		return err
	}
	return r.drift(id, want[0], got)
}

// endTrial ends what a trial has in motion, and forgets it.
func (r *run) endTrial(ctx context.Context) error {
	r.state.Trial = nil
	return errors.Join(r.units.End(ctx, activationUnit), r.units.End(ctx, deadlineUnit))
}

// condemn says why the trial's system is to be left.
func (r *run) condemn(checks []string, format string, args ...any) {
	t := r.state.Trial
	t.Stage, t.Red, t.Reason = stageCondemned, checks, fmt.Sprintf(format, args...)
}

// prove examines the new system. Its verdict is on disk when it returns.
func (r *run) prove(ctx context.Context) error {
	t := r.state.Trial
	if t.Stage == stageTrying {
		if err := r.examineNew(ctx); err != nil {
			return err
		}
	}
	if t.Stage == stageTrying {
		t.Stage = stageProven
		r.log("%s is proven", r.idName(t.ID))
	} else {
		r.log("%s is left: %s", r.idName(t.ID), t.Reason)
	}
	return r.save(string(t.Stage))
}

// examineNew condemns the new system unless it is well, and stays so.
func (r *run) examineNew(ctx context.Context) error {
	t := r.state.Trial
	got, err := r.system()
	if err != nil {
		return err
	}
	if got.Running != t.Path {
		if got.Running == t.Old.Running {
			r.condemn(nil, "its activation succeeded, but %s still leads to %s", r.config.Running, got.Running)
			return nil
		}
		return r.unmoved(ctx, System{t.Path, t.Old.Profile})
	}
	r.log("examining the new system")
	findings := r.examine(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if names := red(findings, t.Baseline); len(names) > 0 {
		r.condemn(names, "%s", describe(findings, names))
		return nil
	}
	r.log("all is well; looking again in %s", time.Duration(r.config.Health.Soak))
	if findings, err = r.soak(ctx); err != nil {
		return err
	}
	if names := red(findings, t.Baseline); len(names) > 0 {
		r.condemn(names, "it was well, and then was not: %s", describe(findings, names))
	}
	return nil
}
