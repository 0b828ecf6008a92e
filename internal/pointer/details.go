package pointer

import (
	"encoding/json"
	"fmt"
)

// Details tell where a generation comes from, for people. They are one JSON
// text, kept as the exact string that was signed: a generation that is read
// and written again keeps the text that it came with, with fields that this
// version doesn't know, whatever is assigned to the fields here.
type Details struct {
	Run        string     `json:"run"`               // random; names the Append that made the generation, which sets it
	Started    int64      `json:"started,omitempty"` // when the work on it began; see Generation.Started
	Provenance Provenance `json:"provenance,omitzero"`
	Revision   string     `json:"revision,omitempty"` // the git commit of the sources
	Origin     *Origin    `json:"origin,omitempty"`   // of a promotion
	Message    string     `json:"message,omitempty"`  // at most MaxMessage bytes
	Changes    string     `json:"changes,omitempty"`  // against the generation before, in one line
	Sizes      Sizes      `json:"sizes,omitzero"`

	text string // as signed
}

// Started returns when the work on g's closure began, in seconds since 1970: when
// the put started that evaluated, built or found it, whatever pointers it was
// promoted to since. A generation that doesn't say counts from when it was made.
func (g Generation) Started() int64 {
	if started := g.Details.Started; started > 0 && started < g.Created {
		return started
	}
	return g.Created
}

// Provenance names the build that made a generation, in Concourse's words.
type Provenance struct {
	Team     string `json:"team,omitempty"`
	Pipeline string `json:"pipeline,omitempty"`
	Job      string `json:"job,omitempty"`
	Build    string `json:"build,omitempty"`
	URL      string `json:"url,omitempty"`
}

// Origin is the generation of another pointer that was promoted.
type Origin struct {
	Pointer    Name   `json:"pointer"`
	Generation uint64 `json:"generation"`
	Signature  string `json:"signature,omitempty"` // the one that was verified
}

// Sizes are those of the whole closure.
type Sizes struct {
	Paths   int   `json:"paths"`
	NarSize int64 `json:"narSize"` // in bytes
}

// detailsFields are Details without their methods, for encoding/json.
type detailsFields Details

// signable returns d with the text that its fields amount to.
func (d Details) signable() (Details, error) {
	text, err := encode(detailsFields(d))
	d.text = string(text)
	return d, err
}

// MarshalText is the text as it was signed.
func (d Details) MarshalText() ([]byte, error) { return []byte(d.text), nil }

// UnmarshalText reads a JSON object and keeps its text.
func (d *Details) UnmarshalText(text []byte) error {
	var fields detailsFields
	if err := json.Unmarshal(text, &fields); err != nil {
		return fmt.Errorf("its details: %w", err)
	}
	*d = Details(fields)
	d.text = string(text)
	return nil
}

// Equal says whether d and e are the same text.
func (d Details) Equal(e Details) bool { return d.text == e.text }
