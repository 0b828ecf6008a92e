package host

import "github.com/nixos-closure/nixos-closure-resource/internal/nix"

// An Outcome is what a run came to.
type Outcome struct {
	Result      Result        `json:"result"`
	Sentence    string        `json:"sentence"`        // one, and true: what is the case, of which generation, and why
	Hints       []string      `json:"hints,omitempty"` // what a person could do
	Generation  uint64        `json:"generation,omitempty"`
	Path        nix.StorePath `json:"path,omitzero"`
	NeedsReboot bool          `json:"needsReboot,omitempty"` // what runs is not what would run after a boot into it
	At          int64         `json:"at"`                    // in seconds since 1970
}

// A Result is one of a small set. Its text doesn't change, nor does its status.
type Result string

const (
	NothingNew   Result = "nothing-new"  // the host runs the newest generation
	Switched     Result = "switched"     // it runs now, was proven, and is what the machine boots
	Tested       Result = "tested"       // it runs now and was proven, until the next boot
	Booting      Result = "booting"      // the machine reboots, for a trial or to go back; the verdict follows
	Shown        Result = "shown"        // a dry activation: nothing was changed
	Waiting      Result = "waiting"      // it will be tried later, by itself
	Held         Result = "held"         // somebody has asked to wait
	Drift        Result = "drift"        // somebody has changed the system by hand
	Refused      Result = "refused"      // the newest generation may not be followed
	Failed       Result = "failed"       // it has failed here, now or before, and the old system runs
	Inconclusive Result = "inconclusive" // nobody can say whose fault it was; the old system runs
	Stranded     Result = "stranded"     // the new system is not to be kept, and the old one could not be activated
	Unreachable  Result = "unreachable"  // the pointer or the closure could not be read
)

// Status is the exit status of a run that came to r. It is 0 where nobody has to
// look. (1 is that of an error of the run itself, 2 of a wrong setting.)
func (r Result) Status() int {
	switch r {
	case NothingNew, Switched, Tested, Booting, Shown:
		return 0
	case Waiting:
		return 10
	case Held:
		return 11
	case Drift:
		return 12
	case Refused:
		return 13
	case Failed:
		return 14
	case Inconclusive:
		return 15
	case Stranded:
		return 16
	case Unreachable:
		return 17
	}
	return 1
}

// An ended run is an error among its steps, which ends it with an outcome.
type ended struct{ Outcome }

func (e *ended) Error() string { return e.Sentence }
