package pointer

import (
	"fmt"
	"slices"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Follower is somebody who runs a pointer's newest generation: what it can
// run, and what it remembers. Zero values allow least.
type Follower struct {
	System  string        // what it can run, such as x86_64-linux
	Seen    Seen          // what it remembers of this pointer
	Running nix.StorePath // what it runs; it stands in for a memory where there is none
	Skew    time.Duration // how far its clock may be behind that of the pointer's writers

	// TrustOnFirstUse accepts what a follower without memory is offered, even if
	// that doesn't tell of what it runs.
	TrustOnFirstUse bool
}

// Seen is what a follower remembers of a pointer between two looks, for as long
// as one of Keys is accepted: with other keys, it is another pointer. (So an
// attacker who had a key and gave away a number that nothing can exceed is got
// rid of together with the key.)
type Seen struct {
	Number  uint64        `json:"generation"` // the highest that was verified, whether it was run or not; 0 for none
	Path    nix.StorePath `json:"path,omitzero"`
	Created int64         `json:"created,omitempty"` // the latest that was verified: it can't be earlier now
	Keys    []string      `json:"keys,omitempty"`    // that had signed it and were accepted; none if none were asked for
}

// A Refusal says why a follower may not run a pointer's newest generation.
type Refusal struct {
	Reason     Reason
	Generation Generation // that is refused, if there is one

	message string
}

func (r *Refusal) Error() string { return r.message }

// A Reason is one to refuse a generation for. Its text doesn't change.
type Reason string

const (
	Missing     Reason = "missing"      // there is no generation
	Rollback    Reason = "rollback"     // a higher number was seen
	Replaced    Reason = "replaced"     // the number was seen with another path
	Future      Reason = "future"       // it was made later than now
	WrongSystem Reason = "wrong-system" // it is for other machines
	Expired     Reason = "expired"      // nobody should begin to follow it
	Unknown     Reason = "unknown"      // nothing is remembered that it could be held against
)

// Accept returns the newest generation of a history that p.Read has returned, if
// the follower may run it now. Otherwise the error wraps a [*Refusal]. Accept
// makes no request and reads no clock.
//
// Either way it returns what the follower has to remember from now on, and has
// to have stored before it runs anything.
func (p *Pointer) Accept(history *History, f Follower, now time.Time) (Generation, Seen, error) {
	seen := f.Seen
	if !p.remembers(seen) {
		seen = Seen{}
	}
	refuse := func(g Generation, reason Reason, advice, format string, args ...any) (Generation, Seen, error) {
		return Generation{}, seen, hint.With(&Refusal{reason, g, fmt.Sprintf(format, args...)}, "%s", advice)
	}
	newest, exists := history.Newest()
	switch {
	case !exists && seen.Number > 0:
		return refuse(newest, Rollback, "somebody has deleted the pointer: put back "+p.config.Name.historyKey()+", or find out who may write to pointers/",
			"%s has no generation, and had generation %d", p, seen.Number)
	case !exists:
		return refuse(newest, Missing, "put it first, or name another pointer", "%s has no generation yet", p)
	case newest.Number < seen.Number:
		return refuse(newest, Rollback, "numbers never fall: somebody has put back an old copy of the pointer, or serves one",
			"%s offers generation %d, and had generation %d", p, newest.Number, seen.Number)
	case newest.Number == seen.Number && !seen.Path.IsZero() && newest.Path != seen.Path:
		return refuse(newest, Replaced, "a generation never changes: two have signed under one number; find out who has the key, and put again for a number of its own",
			"generation %d of %s is %s, and was %s", newest.Number, p, newest.Path, seen.Path)
	case seen.Number == 0 && !f.TrustOnFirstUse && !history.has(f.Running):
		return refuse(newest, Unknown, "if the history is the right one, follow it once with --trust-on-first-use",
			"nothing is remembered of %s, and none of its generations is what runs here, %s: it could be an old copy", p, f.Running)
	}
	seen.Number, seen.Path = newest.Number, newest.Path
	seen.Keys = p.signersOf(newest)

	latest := now.Add(f.Skew).Unix()
	for _, g := range history.Generations {
		if g.Created <= latest {
			seen.Created = max(seen.Created, g.Created)
		}
	}
	if newest.Created > max(latest, seen.Created) {
		return refuse(newest, Future, "set the clock of this machine, or of the one that put the generation",
			"generation %d of %s was made at %s, and it is only %s here", newest.Number, p, moment(newest.Created), moment(now.Unix()))
	}
	if newest.System != f.System {
		return refuse(newest, WrongSystem, "follow another pointer, or put a closure for this machine",
			"generation %d of %s is for %s, and this is %s", newest.Number, p, newest.System, f.System)
	}
	if newest.Expired(time.Unix(max(now.Unix(), seen.Created), 0)) {
		return refuse(newest, Expired, "put the same closure again, which renews it; if that was done, somebody serves an old copy of the pointer",
			"generation %d of %s has expired at %s", newest.Number, p, moment(newest.Expires))
	}
	return newest, seen, nil
}

// Recall returns a history that holds nothing but a generation, which somebody
// has kept since it was read. It fails unless that is one of the pointer's.
func (p *Pointer) Recall(g Generation) (*History, error) {
	if !p.accepts(g) {
		return nil, p.distrust(g)
	}
	return &History{Generations: []Generation{g}, entries: []Generation{g}}, nil
}

// remembers says whether seen is about this pointer: whether one of the keys that
// had signed what was seen is still accepted.
func (p *Pointer) remembers(seen Seen) bool {
	if !p.config.RequireSigs || len(seen.Keys) == 0 {
		return true
	}
	return slices.ContainsFunc(p.config.PublicKeys, func(key nix.PublicKey) bool {
		return slices.Contains(seen.Keys, key.String())
	})
}

// signersOf are the accepted keys that have signed g.
func (p *Pointer) signersOf(g Generation) []string {
	var signers []string
	for _, key := range p.config.PublicKeys {
		if p.config.RequireSigs && g.Verify(p.config.Name, nix.Keys{key}) {
			signers = append(signers, key.String())
		}
	}
	return signers
}

// has says whether one of the generations is that path.
func (h *History) has(path nix.StorePath) bool {
	return !path.IsZero() && slices.ContainsFunc(h.Generations, func(g Generation) bool { return g.Path == path })
}

// moment is a time for a person.
func moment(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.DateTime + " UTC") }
