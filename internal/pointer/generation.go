package pointer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Generation is one entry of a pointer. Its JSON is the same wherever it
// stands: in the pointer's history, as an object of its own, and in the
// generation.json that a get leaves. The pointer's name is not in it: whoever
// reads a generation has to know whose it ought to be, and [Generation.Verify]
// tells whether it is.
//
// One that was read is well formed, but nothing in it is true until it is
// verified.
type Generation struct {
	Number     uint64        `json:"generation"` // 1 or more; grows, not always by one
	Path       nix.StorePath `json:"path"`
	System     string        `json:"system"`  // x86_64-linux
	NarHash    nix.Hash      `json:"narHash"` // of Path, as the cache has it
	Created    int64         `json:"created"` // in seconds since 1970, UTC
	Expires    int64         `json:"expires"` // the same; 0 is never
	Details    Details       `json:"details"`
	Signatures Signatures    `json:"signatures"` // of all of the above, for one pointer
}

// Signatures are written as a list of strings, name:base64 each.
type Signatures []nix.Signature

// The bounds of a pointer's objects. What leaves the history is kept under its
// number; Keep entries of MaxEntry bytes are far from MaxObject, so that
// writers with other habits are still read.
const (
	Keep       = 50      // generations in the history, at most
	MaxEntry   = 4 << 10 // bytes of one generation's JSON
	MaxObject  = 1 << 20 // bytes of the history that a reader takes
	MaxMessage = 1 << 10 // bytes of Details.Message

	maxNumber = 1<<53 - 1 // what every JSON parser reads exactly
	maxSystem = 64        // bytes
)

// UnmarshalJSON reads a generation and ignores the fields that it doesn't know.
func (g *Generation) UnmarshalJSON(data []byte) error {
	type fields Generation
	if err := json.Unmarshal(data, (*fields)(g)); err != nil {
		return err
	}
	return g.check()
}

// check returns an error unless g is well formed. What it lets through can't
// be mistaken for anything else in the signed line.
func (g Generation) check() error {
	switch {
	case g.Number < 1 || g.Number > maxNumber:
		return fmt.Errorf("its number %d is not between 1 and %d", g.Number, uint64(maxNumber))
	case g.Path.IsZero():
		return errors.New("it has no path")
	case g.System == "" || len(g.System) > maxSystem || strings.ContainsFunc(g.System, func(r rune) bool { return !isNameByte(r) }):
		return fmt.Errorf("its system %q is not one, like x86_64-linux", g.System)
	case g.NarHash.IsZero():
		return errors.New("it has no narHash")
	case g.Created < 0 || g.Expires < 0:
		return errors.New("it is from before 1970")
	case g.Details.text == "":
		return errors.New("it has no details")
	}
	return nil
}

// encode is g's JSON, on one line, or an error if that is more than limit bytes.
func (g Generation) encode(limit int) ([]byte, error) {
	data, err := encode(g)
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("generation %d takes %d bytes, and may take %d", g.Number, len(data), limit)
	}
	return data, nil
}

// encode is v's JSON, on one line, with < > & as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// MarshalJSON writes an empty list for no signatures.
func (s Signatures) MarshalJSON() ([]byte, error) {
	texts := make([]string, len(s))
	for i, signature := range s {
		texts[i] = signature.String()
	}
	return encode(texts)
}

// UnmarshalJSON reads a list of strings.
func (s *Signatures) UnmarshalJSON(data []byte) error {
	var texts []string
	if err := json.Unmarshal(data, &texts); err != nil {
		return err
	}
	*s = make(Signatures, len(texts))
	for i, text := range texts {
		signature, err := nix.ParseSignature(text)
		if err != nil {
			return fmt.Errorf("%q is not a signature: %w", text, err)
		}
		(*s)[i] = signature
	}
	return nil
}
