package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// State is what a host remembers between two runs: the file state.json in its
// state directory (docs/hosts.md specifies it). Times are in seconds since 1970.
//
// If the file is lost, the host doesn't know which generations have failed, nor
// of a trial; the highest number is known from the names of the roots.
type State struct {
	Pointer pointer.Name                  `json:"pointer,omitzero"` // that all but Seen is about
	Seen    map[pointer.Name]pointer.Seen `json:"seen"`
	Offered *Offered                      `json:"offered,omitempty"`

	Attempts Attempts  `json:"attempts,omitzero"`
	Trial    *Trial    `json:"trial,omitempty"` // begun, and not ended
	Failed   []Verdict `json:"failed,omitempty"`
	Unclear  *Unclear  `json:"unclear,omitempty"`
	Proven   *Proof    `json:"proven,omitempty"` // the last one
	Left     *System   `json:"left,omitempty"`   // what the last run that changed anything has left
	Drift    *ID       `json:"drift,omitempty"`  // what was the newest when somebody was seen to have changed the system
	Last     *Outcome  `json:"last,omitempty"`   // of the last run
	Reported Reported  `json:"reported,omitzero"`
	Success  int64     `json:"success,omitempty"` // when a run last found, or made, the newest generation running
}

// An ID names a generation as failures are remembered: by number and path.
type ID struct {
	Number uint64        `json:"generation"`
	Path   nix.StorePath `json:"path"`
}

func idOf(g pointer.Generation) ID { return ID{g.Number, g.Path} }

// Offered is the newest generation, as it was read and verified last.
type Offered struct {
	Generation pointer.Generation `json:"generation"`
	FirstSeen  int64              `json:"firstSeen"`
	Source     string             `json:"source"` // where it was read, and whose signatures were accepted
	ETag       string             `json:"etag,omitempty"`
}

// Attempts counts the trials of a generation that have had no verdict yet.
type Attempts struct {
	ID
	Count int `json:"count"`
}

// maxAttempts is how many trials of a generation may end without a verdict.
const maxAttempts = 2

// A System is what runs, and what the profile leads to.
type System struct {
	Running nix.StorePath `json:"running,omitzero"`
	Profile nix.StorePath `json:"profile,omitzero"` // zero if there is none
}

// A Trial is a new system that was begun to be activated.
type Trial struct {
	ID
	Kind        Kind     `json:"kind"`
	Activation  string   `json:"activation"` // random: names this attempt
	Attempt     int      `json:"attempt"`
	Boot        string   `json:"boot"` // the kernel's id of the boot that it was begun in
	Began       int64    `json:"began"`
	Old         System   `json:"old"`                   // to go back to
	Baseline    []string `json:"baseline"`              // checks that were red on the old system
	Stage       Stage    `json:"stage"`                 // how far it has come
	Reason      string   `json:"reason,omitempty"`      // why it is condemned
	Red         []string `json:"red,omitempty"`         // the checks that were red, if that was why
	Interrupted bool     `json:"interrupted,omitempty"` // its run was told to end, as by a shutdown
	Kept        bool     `json:"kept,omitempty"`        // it was begun to be made what the machine boots
	Back        bool     `json:"back,omitempty"`        // the old system was activated again
	Config      Config   `json:"config"`                // as it was then: whoever goes back goes by this one
}

// A Kind says how a trial's system comes to run. Its text doesn't change.
type Kind string

const (
	live   Kind = "live" // it is activated
	booted Kind = "boot" // the machine boots it once
)

// A Stage is how far a trial has come. Its text doesn't change.
type Stage string

const (
	stageTrying    Stage = "trying"    // the new system is being activated and examined
	stageProven    Stage = "proven"    // it is to be kept
	stageCondemned Stage = "condemned" // it is to be left
)

// A Verdict is that a generation has failed here.
type Verdict struct {
	ID
	Reason string `json:"reason"`
	At     int64  `json:"at"`
}

// maxFailed is how many failures are remembered. A host doesn't go below the
// highest number, so only that one's matters; the others are for people.
const maxFailed = 20

// Unclear is a generation whose attempts could not be judged.
type Unclear struct {
	ID
	Reason string `json:"reason"`
	Times  int    `json:"times"`
	Until  int64  `json:"until"` // when it may be tried again
}

// A Proof is that a system has passed its checks on this host.
type Proof struct {
	ID
	At          int64  `json:"at"`
	Activation  string `json:"activation"`
	Boot        string `json:"boot"`                  // the boot in which it has
	NeedsReboot bool   `json:"needsReboot,omitempty"` // it isn't what the machine boots, since it would boot otherwise than it was proven
}

// Reported is the last report that was written.
type Reported struct {
	Number uint64 `json:"number"`
	At     int64  `json:"at,omitempty"`
}

const (
	stateFile    = "state.json"
	maxStateSize = 1 << 20
)

// ReadState reads what the host remembers. Where there is no file, that is
// nothing.
func ReadState(dir string) (*State, error) {
	file := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return new(State), nil
	}
	if err != nil {
		return nil, err
	}
	s := new(State)
	if err := json.Unmarshal(data, s); err != nil {
		return nil, hint.With(fmt.Errorf("%s is not as it was written: %w", file, err),
			"it can't be half written, so the disk or somebody has changed it: look at it; if it is moved away, the host begins anew, and goes by its running system and by the roots in gc_roots")
	}
	return s, nil
}

// write replaces the file, whole, and returns when it is on disk.
func (s *State) write(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, stateFile), append(data, '\n'), 0o644)
}

// failure returns the verdict on a generation, if it has failed here.
func (s *State) failure(id ID) (Verdict, bool) {
	for _, v := range s.Failed {
		if v.ID == id {
			return v, true
		}
	}
	return Verdict{}, false
}

// forget makes everything that is about the pointer as if it were new.
func (s *State) forget(name pointer.Name) {
	*s = State{Pointer: name, Seen: s.Seen, Trial: s.Trial, Left: s.Left, Proven: s.Proven, Reported: Reported{Number: s.Reported.Number}}
}
