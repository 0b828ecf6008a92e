package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// A request is what Concourse writes to a program's stdin: one JSON object with
// a source, perhaps a version and params. All mistakes in it are collected, so
// that a person hears of them at once. They name keys and kinds of values; only
// a parser that knows that its value is no secret quotes it.
type request struct {
	fields   map[string]json.RawMessage
	mistakes mistakes
}

// mistakes is an error that is many, each to be told by itself.
type mistakes []error

func (m mistakes) Error() string   { return errors.Join(m...).Error() }
func (m mistakes) Unwrap() []error { return m }

// readRequest reads the request. Keys of Concourse's own that aren't known here
// are left alone.
func readRequest(stdin io.Reader) (*request, error) {
	data, err := io.ReadAll(stdin)
	if err != nil {
		return nil, fmt.Errorf("reading the request from stdin: %w", err)
	}
	r := new(request)
	if err := json.Unmarshal(data, &r.fields); err != nil {
		var syntax *json.SyntaxError
		switch {
		case len(bytes.TrimSpace(data)) == 0:
			err = errors.New("stdin is empty")
		case errors.As(err, &syntax) && syntax.Offset >= int64(len(data)):
			err = errors.New("the JSON on stdin ends too early")
		case errors.As(err, &syntax):
			err = fmt.Errorf("stdin is not JSON: at byte %d: %w", syntax.Offset, err)
		default:
			err = fmt.Errorf("stdin: want a JSON object, got %s", kindOf(data))
		}
		return nil, hint.With(err, `Concourse writes the request; by hand: echo '{"source": {"cache": "…", "pointer": "…"}}' | check`)
	}
	return r, nil
}

// err returns the mistakes in the request, if there are any.
func (r *request) err() error {
	if len(r.mistakes) == 0 {
		return nil
	}
	return r.mistakes
}

// object opens the object at key, which is empty if there is none.
func (r *request) object(key string) *object {
	o := &object{request: r, path: key}
	if raw, ok := r.fields[key]; ok && json.Unmarshal(raw, &o.fields) != nil {
		o.fail("", "want an object of keys and values, got %s", kindOf(raw))
	}
	return o
}

// An object is taken apart key by key. Every taking method names a key that is
// known; finish refuses the keys that nobody took.
//
// A key whose value is null counts as absent: that is what YAML makes of a key
// with nothing after it.
type object struct {
	request *request
	path    string // as the pipeline has it: source, params, version
	fields  map[string]json.RawMessage
	known   []string
}

// text takes a string; "" if it is absent.
func (o *object) text(key string) string {
	var s string
	o.value(key, "a string", &s)
	return s
}

// flag takes a boolean, or says what it is by default.
func (o *object) flag(key string, byDefault bool) bool {
	o.value(key, "true or false", &byDefault)
	return byDefault
}

// textOrNumber takes a string, or a number as it is written.
func (o *object) textOrNumber(key string) string {
	if raw, ok := o.raw(key); ok && kindOf(raw) == "a number" {
		return string(raw)
	}
	var s string
	o.value(key, "a string or a number", &s)
	return s
}

// optionalFlag takes a boolean; nil if it is absent.
func (o *object) optionalFlag(key string) *bool {
	if !o.has(key) {
		return nil
	}
	b := o.flag(key, false)
	return &b
}

// texts takes a list of strings. A single string is a list of one.
func (o *object) texts(key string) []string {
	raw, ok := o.raw(key)
	if !ok {
		return nil
	}
	if kindOf(raw) == "a string" {
		return []string{o.text(key)}
	}
	var elements []json.RawMessage
	if json.Unmarshal(raw, &elements) != nil {
		o.fail(key, "want a list of strings or a string, got %s", kindOf(raw))
		return nil
	}
	list := make([]string, len(elements))
	for i, element := range elements {
		if json.Unmarshal(element, &list[i]) != nil || kindOf(element) == "null" {
			o.fail(fmt.Sprintf("%s[%d]", key, i), "want a string, got %s", kindOf(element))
		}
	}
	return list
}

// require refuses an object that has nothing at key.
func (o *object) require(key, advice string) {
	if !o.has(key) {
		o.failWith(key, hint.With(errors.New("missing"), "%s", advice))
	}
}

// parsed takes a string and parses it; the zero T if it is absent.
func parsed[T any](o *object, key string, parse func(string) (T, error)) T {
	var zero T
	if raw, ok := o.raw(key); !ok || kindOf(raw) != "a string" {
		o.text(key)
		return zero
	}
	value, err := parse(o.text(key))
	if err != nil {
		o.failWith(key, err)
		return zero
	}
	return value
}

// value decodes what is at key into a pointer to a string or a boolean.
func (o *object) value(key, want string, into any) {
	raw, ok := o.raw(key)
	if !ok || json.Unmarshal(raw, into) == nil {
		return
	}
	o.fail(key, "want %s, got %s", want, kindOf(raw))
}

// raw takes what is at key, whatever it is.
func (o *object) raw(key string) (json.RawMessage, bool) {
	if !slices.Contains(o.known, key) {
		o.known = append(o.known, key)
	}
	raw, ok := o.fields[key]
	return raw, ok && !bytes.Equal(raw, []byte("null"))
}

// has says whether there is a value at key.
func (o *object) has(key string) bool {
	_, ok := o.raw(key)
	return ok
}

// fail records a mistake at key, or in the object as a whole if key is "".
func (o *object) fail(key, format string, args ...any) {
	o.failWith(key, fmt.Errorf(format, args...))
}

// failWith is fail for an error that may carry a hint.
func (o *object) failWith(key string, err error) {
	path := o.path
	if key != "" {
		path += "." + key
	}
	o.request.mistakes = append(o.request.mistakes, fmt.Errorf("%s: %w", path, err))
}

// finish refuses the keys that were not taken.
func (o *object) finish() {
	for _, key := range slices.Sorted(maps.Keys(o.fields)) {
		if !slices.Contains(o.known, key) {
			o.failWith(key, hint.With(errors.New("unknown key"), "%s", o.advice(key)))
		}
	}
}

// advice says what to write in place of an unknown key.
func (o *object) advice(key string) string {
	if advice, ok := elsewhere[o.path+"."+key]; ok {
		return advice
	}
	if near := nearest(key, o.known); near != "" {
		return "did you mean " + near + "?"
	}
	return "known keys of " + o.path + ": " + strings.Join(slices.Sorted(slices.Values(o.known)), ", ")
}

// elsewhere tells those who come from Concourse's s3 resource where its words
// went.
var elsewhere = map[string]string{
	"source.bucket":      "the bucket is part of the cache's URL, as in nix.conf: cache: s3://bucket",
	"source.endpoint":    "the endpoint is part of the cache's URL, as in nix.conf: cache: s3://bucket?endpoint=host",
	"source.region":      "the region is part of the cache's URL, as in nix.conf: cache: s3://bucket?region=eu-central-1",
	"source.region_name": "the region is part of the cache's URL, as in nix.conf: cache: s3://bucket?region=eu-central-1",
}

// kindOf names the kind of a JSON value, with its article.
func kindOf(raw json.RawMessage) string {
	switch raw = bytes.TrimSpace(raw); raw[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}
