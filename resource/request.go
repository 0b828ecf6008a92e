package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/fields"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// A request is what Concourse writes to a program's stdin: one JSON object with
// a source, perhaps a version and params.
type request struct {
	objects  map[string]json.RawMessage
	problems fields.Problems
}

// readRequest reads the request. Keys of Concourse's own that aren't known here
// are left alone.
func readRequest(stdin io.Reader) (*request, error) {
	data, err := io.ReadAll(stdin)
	if err != nil {
		return nil, fmt.Errorf("reading the request from stdin: %w", err)
	}
	r := new(request)
	if err := json.Unmarshal(data, &r.objects); err != nil {
		var syntax *json.SyntaxError
		switch {
		case len(bytes.TrimSpace(data)) == 0:
			err = errors.New("stdin is empty")
		case errors.As(err, &syntax) && syntax.Offset >= int64(len(data)):
			err = errors.New("the JSON on stdin ends too early")
		case errors.As(err, &syntax):
			err = fmt.Errorf("stdin is not JSON: at byte %d: %w", syntax.Offset, err)
		default:
			err = fmt.Errorf("stdin: want a JSON object, got %s", fields.KindOf(data))
		}
		return nil, hint.With(err, `Concourse writes the request; by hand: echo '{"source": {"cache": "…", "pointer": "…"}}' | check`)
	}
	return r, nil
}

// object opens the object at key, which is empty if there is none.
func (r *request) object(key string) *fields.Object {
	return fields.Parse(r.objects[key], fields.At(key), &r.problems)
}

// source takes the request's source.
func (r *request) source() (site.Config, build.Nix) {
	o := r.object("source")
	defer o.Finish()
	return site.Decode(o, true), build.DecodeNix(o)
}

// err returns what is wrong with the request, if anything is.
func (r *request) err() error { return r.problems.Err() }
