package resource

import (
	"fmt"
	"strconv"

	"github.com/nixos-closure/nixos-closure-resource/internal/fields"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A Version is what Concourse keeps of a generation: in JSON, two strings. It
// never gains a field. Concourse tells versions apart by their JSON, so one
// field more would make every known version new.
type Version struct {
	Generation uint64        `json:"generation,string"` // 1 or more
	Path       nix.StorePath `json:"path,omitzero"`     // none only where a person named a generation alone
}

// versionOf is a generation's version.
func versionOf(g pointer.Generation) Version { return Version{g.Number, g.Path} }

// decodeVersion takes the version of a request; nil if there is none.
func decodeVersion(r *request) *Version {
	o := r.object("version")
	defer o.Finish()
	if o.IsEmpty() {
		return nil
	}
	o.Require("generation", `a version is {"generation": "12", "path": "/nix/store/…"}; the generation alone will do`)
	return &Version{
		Generation: fields.Parsed(o, "generation", parseGeneration),
		Path:       fields.Parsed(o, "path", nix.ParseStorePath),
	}
}

// requireVersion takes the version of a request that must have one.
func requireVersion(r *request) *Version {
	v := decodeVersion(r)
	if v == nil {
		r.object("version").Fail("", "missing")
	}
	return v
}

// names says whether v is the version of the generation that has this path.
func (v *Version) names(path nix.StorePath) bool {
	return v.Path.IsZero() || v.Path == path
}

// parseGeneration parses a generation's number as versions write it, without
// sign or leading zeros: two ways to write a number would be two versions.
func parseGeneration(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < 1 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is not the number of a generation: want 1, 2, 3, …", s)
	}
	return n, nil
}
