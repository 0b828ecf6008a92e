package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// leave goes back from a condemned system, and judges it.
func (r *run) leave(ctx context.Context) error {
	if err := r.goBack(ctx); err != nil {
		return err
	}
	return r.judge(ctx)
}

// goBack activates the remembered system by its own activation. It needs no
// network. That it is done is on disk when it returns.
func (r *run) goBack(ctx context.Context) error {
	t := r.state.Trial
	if err := r.units.End(ctx, activationUnit); err != nil { // it may still be at work
		return err
	}
	got, err := r.system()
	if err != nil {
		return err
	}
	ours := []System{t.Old, {t.Path, t.Old.Profile}, {t.Path, t.Path}, {t.Old.Running, t.Path}, {t.Old.Profile, t.Old.Profile}, {t.Old.Profile, t.Path}}
	if err := r.unmoved(ctx, ours...); err != nil {
		return err
	}
	if t.Kept {
		if err := r.restoreDefault(ctx); err != nil {
			return err
		}
	}
	rebooted := t.Boot != r.boot
	switch {
	case t.Back && got.Running == t.Old.Running:
	case t.Kind == booted && !rebooted && got.Running == t.Old.Running:
		if err := r.unload(ctx); err != nil {
			return err
		}
	case t.inBoot(r.boot) && got.Running == t.Path:
		return r.bootBack(ctx)
	case rebooted && (got.Running == t.Old.Running || got.Running == t.Old.Profile):
		r.log("the machine has booted into %s", got.Running)
		t.Old.Running = got.Running
	default:
		r.log("going back to %s", t.Old.Running)
		// The new system may forbid to switch from it; that is no reason to stay.
		failure := r.activate(ctx, t.Old.Running, "test", "NIXOS_NO_CHECK=1")
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if got, err = r.system(); err != nil {
			return err
		}
		if got.Running != t.Old.Running {
			return ends(Stranded, t.ID, "%s is not to be kept (%s), and going back to %s failed, so %s runs: %v; a reboot leads to %s",
				r.idName(t.ID), t.reason(), t.Old.Running, got.Running, failure, t.Old.Profile)
		}
		// If it went back, but not all is well, the checks will tell.
	}
	t.Back = true
	return r.save("back")
}

// restoreDefault makes the machine boot again what it booted before the trial.
func (r *run) restoreDefault(ctx context.Context) error {
	t := r.state.Trial
	if t.Old.Profile.IsZero() {
		return nil
	}
	if _, err := r.openStore(ctx); err != nil {
		return err
	}
	if err := r.makeDefault(ctx, t.Old.Profile); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Then it isn't due to the new system that the boot loader can't be written.
		r.log("making %s what the machine boots, again: %v", t.Old.Profile, err)
		t.Red = append(t.Red, bootCheck)
		return nil
	}
	t.Kept = false
	return nil
}

// bootCheck is red if the old system can't be made what the machine boots either.
const bootCheck = "boot loader"

func (t *Trial) reason() string {
	if t.Reason == "" {
		return "a run has ended before its verdict"
	}
	return t.Reason
}

// judge says whether a condemned generation has failed: by whether the checks
// that were red are green on the old system.
func (r *run) judge(ctx context.Context) error {
	t := r.state.Trial
	findings := r.examine(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if slices.Contains(t.Red, bootCheck) {
		findings = append(findings, finding{bootCheck, true, errors.New("the old system can't be made what the machine boots, either")})
	}
	still := red(findings, t.Baseline)
	if len(t.Red) > 0 {
		still = slices.DeleteFunc(still, func(name string) bool { return !slices.Contains(t.Red, name) })
	}
	now := r.host.now()
	if len(still) > 0 {
		return r.postpone(ctx, fmt.Sprintf("%s; and on the old system %s, too", t.Reason, describe(findings, still)))
	}
	left := t.Old
	r.state.Left, r.state.Attempts, r.state.Unclear = &left, Attempts{}, nil
	r.state.Failed = slices.DeleteFunc(r.state.Failed, func(v Verdict) bool { return v.ID == t.ID })
	r.state.Failed = append(r.state.Failed, Verdict{t.ID, t.Reason, now.Unix()})
	r.state.Failed = r.state.Failed[max(0, len(r.state.Failed)-maxFailed):]
	if err := r.endTrial(ctx); err != nil {
		return err
	}
	if err := r.save("verdict"); err != nil {
		return err
	}
	return ends(Failed, t.ID, "%s has failed (%s); %s runs again", r.idName(t.ID), t.Reason, t.Old.Running)
}

// postpone ends a trial without a verdict, on the old system. It isn't held
// against the generation, which is tried again after a pause.
func (r *run) postpone(ctx context.Context, reason string) error {
	t := r.state.Trial
	times := 1
	if r.state.Unclear != nil && r.state.Unclear.ID == t.ID {
		times += r.state.Unclear.Times
	}
	until := r.host.now().Add(pauseAfter(times))
	left := t.Old
	r.state.Left, r.state.Attempts, r.state.Unclear = &left, Attempts{}, &Unclear{t.ID, reason, times, until.Unix()}
	if err := r.endTrial(ctx); err != nil {
		return err
	}
	if err := r.save("verdict"); err != nil {
		return err
	}
	return ends(Inconclusive, t.ID, "%s could not be judged (%s); %s runs, and it will be tried again at %s",
		r.idName(t.ID), reason, t.Old.Running, moment(until))
}

// pauseAfter is how long to wait after so many attempts that could not be judged.
func pauseAfter(times int) time.Duration {
	const first, longest = 10 * time.Minute, 12 * time.Hour
	return min(first<<min(times-1, 10), longest)
}
