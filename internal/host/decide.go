package host

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// decide returns the system to go back to, if the generation is to be tried now.
func (r *run) decide(g pointer.Generation) (System, error) {
	id := idOf(g)
	old, err := r.system()
	if err != nil {
		return old, err
	}
	now := r.host.now()
	proven := r.state.Proven
	wasProven := proven != nil && proven.Path == g.Path && old.Running == g.Path
	switch {
	case old.Running == g.Path && (old.Profile == g.Path || old.Profile.IsZero()):
		return old, r.nothingNew(id, old, false)
	case wasProven && r.config.Mode == Test:
		return old, r.nothingNew(id, old, false)
	case wasProven && proven.NeedsReboot && proven.Boot == r.boot:
		return old, r.nothingNew(id, old, true)
	}
	if err := r.drifted(id, old); err != nil {
		return old, err
	}
	if hold, err := ReadHold(r.config.StateDir); err != nil {
		return old, err
	} else if hold != nil && now.Before(hold.Until) && !r.request.Now {
		return old, ends(Held, id, "%s waits until %s: %s", r.nameOf(g), moment(hold.Until), hold.Reason)
	}
	if failure, ok := r.state.failure(id); ok && !r.request.Retry {
		return old, ends(Failed, id, "%s has failed here on %s (%s), and %s runs; a newer one will be tried, or this one with --retry",
			r.nameOf(g), moment(time.Unix(failure.At, 0)), failure.Reason, old.Running)
	}
	if unclear := r.state.Unclear; unclear != nil && unclear.ID == id && now.Unix() < unclear.Until && !r.request.Now && !r.request.Retry {
		return old, ends(Inconclusive, id, "%s could not be judged (%s), and will be tried again at %s",
			r.nameOf(g), unclear.Reason, moment(time.Unix(unclear.Until, 0)))
	}
	if turn := r.turn(g); now.Before(turn) && !r.request.Now {
		return old, ends(Waiting, id, "%s will be tried at %s, when it is this host's turn", r.nameOf(g), moment(turn))
	}
	if old.Running.IsZero() {
		return old, fmt.Errorf("%s leads to nothing, so there is no system to go back to", r.config.Running)
	}
	return old, nil
}

// nothingNew ends a run that finds the newest generation running.
func (r *run) nothingNew(id ID, system System, needsReboot bool) error {
	r.state.Left, r.state.Drift = &system, nil
	e := ends(NothingNew, id, "%s runs", r.idName(id))
	if e.NeedsReboot = needsReboot; needsReboot {
		e.Sentence += ", but is not what the machine boots: it would boot another kernel or initrd than it was proven with"
	}
	return e
}

// drifted ends the run if somebody has changed the system since the last one,
// unless a person says so, or a generation has come since that was noticed.
func (r *run) drifted(id ID, system System) error {
	left := r.state.Left
	if left == nil || *left == system {
		r.state.Drift = nil
		return nil
	}
	if r.leftByReboot(system) {
		return nil
	}
	if r.state.Drift == nil {
		r.state.Drift = &id
	}
	if r.request.Now || *r.state.Drift != id {
		return nil
	}
	return r.drift(id, *left, system)
}

func (r *run) drift(id ID, want, got System) error {
	what := fmt.Sprintf("%s runs, and not %s", got.Running, want.Running)
	if want.Running == got.Running {
		what = fmt.Sprintf("the profile leads to %s, and not to %s", got.Profile, want.Profile)
	}
	return ends(Drift, id, "somebody has changed this system (%s); nothing is touched until a newer generation than %d comes, or by --now", what, id.Number)
}

// leftByReboot says whether the system is what it must be after a reboot: what
// ran was not what the machine boots.
func (r *run) leftByReboot(system System) bool {
	return r.state.Proven != nil && r.state.Proven.Boot != r.boot &&
		system.Profile == r.state.Left.Profile && system.Running == system.Profile
}

// turn is when it is this host's turn to try a generation. Hosts that have seen it
// at the same time act one after the other, in an order that is another one each
// time.
func (r *run) turn(g pointer.Generation) time.Time {
	firstSeen := time.Unix(r.state.Offered.FirstSeen, 0)
	spread := time.Duration(r.config.Spread)
	if spread <= 0 {
		return firstSeen
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s;%s;%d", r.config.Name, r.state.Pointer, g.Number))
	return firstSeen.Add(time.Duration(binary.BigEndian.Uint64(sum[:8]) % uint64(spread))).Truncate(time.Second)
}

// moment is a time for a person.
func moment(t time.Time) string { return t.UTC().Format(time.DateTime + " UTC") }
