package host

import (
	"errors"
	"io/fs"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A Status is what a host runs, what it should run, and why it doesn't.
type Status struct {
	Host              string        `json:"host"`
	Pointer           pointer.Name  `json:"pointer"`
	Wanted            Wanted        `json:"wanted,omitzero"` // zero if nothing was read yet
	Running           nix.StorePath `json:"running,omitzero"`
	RunningGeneration uint64        `json:"runningGeneration,omitempty"` // 0 if it is none that is known
	Boots             nix.StorePath `json:"boots,omitzero"`              // what the profile leads to
	BootsGeneration   uint64        `json:"bootsGeneration,omitempty"`
	Booted            nix.StorePath `json:"booted,omitzero"` // what this boot began with
	ProvenGeneration  uint64        `json:"provenGeneration,omitempty"`
	Failed            []Verdict     `json:"failed,omitempty"`
	Hold              *Hold         `json:"hold,omitempty"`
	Trial             *ID           `json:"trial,omitempty"`     // that is under way, or was left
	PublicKey         string        `json:"publicKey,omitempty"` // that its reports are verified by
	Success           int64         `json:"success,omitempty"`   // when a run last found, or made, the newest generation running
	Last              Outcome       `json:"last,omitzero"`       // why it doesn't move, if it doesn't
}

// Wanted is the newest generation.
type Wanted struct {
	ID
	Created   int64 `json:"created"`
	Expires   int64 `json:"expires,omitempty"`
	FirstSeen int64 `json:"firstSeen"`
}

// Status says how the host stands. It makes no request, and changes nothing.
func (h *Host) Status() (Status, error) {
	s, err := ReadState(h.Config.StateDir)
	if err != nil {
		return Status{}, err
	}
	return h.status(s)
}

func (h *Host) status(s *State) (Status, error) {
	status := Status{Host: h.Config.Name, Pointer: s.Pointer, Failed: s.Failed, Success: s.Success}
	if o := s.Offered; o != nil {
		status.Wanted = Wanted{idOf(o.Generation), o.Generation.Created, o.Generation.Expires, o.FirstSeen}
	}
	if s.Last != nil {
		status.Last = *s.Last
	}
	if s.Trial != nil {
		status.Trial = &s.Trial.ID
	}
	if s.Proven != nil {
		status.ProvenGeneration = s.Proven.Number
	}
	var err error
	for link, path := range map[string]*nix.StorePath{h.Config.Running: &status.Running, h.Config.Profile: &status.Boots, h.Config.Booted: &status.Booted} {
		if *path, err = storePathOf(link); err != nil {
			return status, err
		}
	}
	if status.PublicKey, err = h.PublicKey(); err != nil && !errors.Is(err, fs.ErrPermission) { // the secret half is not for everybody
		return status, err
	}
	hold, err := ReadHold(h.Config.StateDir)
	if err != nil {
		return status, err
	}
	if hold != nil && h.now().Before(hold.Until) {
		status.Hold = hold
	}
	known, err := h.Config.roots(s.Pointer)
	if err != nil {
		return status, err
	}
	status.RunningGeneration, status.BootsGeneration = numberOf(status.Running, known), numberOf(status.Boots, known)
	return status, nil
}

// numberOf is the latest generation that is known to be that path, or 0.
func numberOf(path nix.StorePath, known map[uint64]nix.StorePath) uint64 {
	var latest uint64
	for number, of := range known {
		if of == path {
			latest = max(latest, number)
		}
	}
	return latest
}
