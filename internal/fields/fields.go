// Package fields takes an object apart that a person has written, field by
// field: a pipeline's source and params, or a configuration file.
//
// Everything that is wrong is collected, so that a person hears of it at once.
// An unknown field is refused, with the known one that it was probably meant to
// be. Errors name fields and kinds of values; only a parser that knows that its
// value is no secret quotes it.
//
// A field whose value is null counts as absent: that is what YAML makes of a key
// with nothing after it. Credential managers and files give strings alone, often
// with a line end after them: that is dropped, and "true" and "false" are booleans.
package fields

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// Problems are what is wrong with a request, in the order in which it was found.
// The zero Problems are none.
type Problems struct{ errs []error }

// Err returns all problems as one error, which hint.IsUsage knows, or nil.
func (p *Problems) Err() error { return hint.Usage(errors.Join(p.errs...)) }

// Any says whether there are any.
func (p *Problems) Any() bool { return len(p.errs) > 0 }

// Add adds a problem.
func (p *Problems) Add(err error) { p.errs = append(p.errs, err) }

// An Object is taken apart field by field. Every method that takes a field makes
// it known; [Object.Finish] refuses the fields that nobody took.
type Object struct {
	// Moved says what to write in place of fields that exist elsewhere.
	Moved map[string]string

	// Respell, unless nil, says how a person writes the known field that is near
	// an unknown one.
	Respell func(key, near string) string

	name     func(key string) string
	values   map[string]json.RawMessage
	known    []string
	problems *Problems
}

// New returns the object with those values. Name says how a person calls a field
// of it, such as source.cache; that of "" is the object itself.
func New(values map[string]json.RawMessage, name func(key string) string, problems *Problems) *Object {
	return &Object{name: name, values: values, problems: problems}
}

// At returns a name for the fields of an object that is itself called path.
func At(path string) func(key string) string {
	return func(key string) string {
		if key == "" {
			return path
		}
		return path + "." + key
	}
}

// Parse returns the object that raw holds, which is empty if raw is.
func Parse(raw json.RawMessage, name func(key string) string, problems *Problems) *Object {
	o := New(nil, name, problems)
	if len(raw) > 0 && json.Unmarshal(raw, &o.values) != nil {
		o.Fail("", "want an object of keys and values, got %s", KindOf(raw))
	}
	return o
}

// Name is how a person calls a field of the object.
func (o *Object) Name(key string) string { return o.name(key) }

// Problems are where the object's problems go.
func (o *Object) Problems() *Problems { return o.problems }

// IsEmpty says whether the object has no fields.
func (o *Object) IsEmpty() bool { return len(o.values) == 0 }

// Text takes a string; "" if it is absent.
func (o *Object) Text(key string) string {
	var s string
	o.value(key, "a string", &s)
	return chomp(s)
}

// Flag takes a boolean, or a string that is one, or returns what it is by default.
func (o *Object) Flag(key string, byDefault bool) bool {
	if raw, ok := o.Raw(key); ok && KindOf(raw) == "a string" {
		switch text := o.Text(key); text {
		case "true", "false":
			return text == "true"
		}
	}
	o.value(key, "true or false", &byDefault)
	return byDefault
}

// OptionalFlag takes a boolean; nil if it is absent.
func (o *Object) OptionalFlag(key string) *bool {
	if !o.Has(key) {
		return nil
	}
	b := o.Flag(key, false)
	return &b
}

// TextOrNumber takes a string, or a number as it is written.
func (o *Object) TextOrNumber(key string) string {
	if raw, ok := o.Raw(key); ok && KindOf(raw) == "a number" {
		return string(raw)
	}
	var s string
	o.value(key, "a string or a number", &s)
	return chomp(s)
}

// Texts takes a list of strings. A single string is a list of one.
func (o *Object) Texts(key string) []string {
	raw, ok := o.Raw(key)
	if !ok {
		return nil
	}
	if KindOf(raw) == "a string" {
		return []string{o.Text(key)}
	}
	var elements []json.RawMessage
	if json.Unmarshal(raw, &elements) != nil {
		o.Fail(key, "want a list of strings or a string, got %s", KindOf(raw))
		return nil
	}
	list := make([]string, len(elements))
	for i, element := range elements {
		if json.Unmarshal(element, &list[i]) != nil || KindOf(element) == "null" {
			o.Fail(fmt.Sprintf("%s[%d]", key, i), "want a string, got %s", KindOf(element))
		}
		list[i] = chomp(list[i])
	}
	return list
}

// TextMap takes an object of strings; a number or a boolean counts as it is
// written.
func (o *Object) TextMap(key string) map[string]string {
	raw, ok := o.Raw(key)
	if !ok {
		return nil
	}
	var values map[string]json.RawMessage
	if json.Unmarshal(raw, &values) != nil {
		o.Fail(key, "want an object of names and values, got %s", KindOf(raw))
		return nil
	}
	texts := make(map[string]string, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch kind := KindOf(values[name]); kind {
		case "a string":
			var text string
			json.Unmarshal(values[name], &text)
			texts[name] = text
		case "a number", "a boolean":
			texts[name] = string(values[name])
		default:
			o.Fail(key+"."+name, "want a string, got %s", kind)
		}
	}
	return texts
}

// Parsed takes a string and parses it; the zero T if it is absent.
func Parsed[T any](o *Object, key string, parse func(string) (T, error)) T {
	var zero T
	if raw, ok := o.Raw(key); !ok || KindOf(raw) != "a string" {
		o.Text(key)
		return zero
	}
	value, err := parse(o.Text(key))
	if err != nil {
		o.FailWith(key, err)
		return zero
	}
	return value
}

// List takes a list of anything. What isn't a list is a list of one.
func (o *Object) List(key string) []json.RawMessage {
	raw, ok := o.Raw(key)
	if !ok {
		return nil
	}
	var elements []json.RawMessage
	if json.Unmarshal(raw, &elements) != nil {
		return []json.RawMessage{raw}
	}
	return elements
}

// Element opens an element of the list at key, or what stands there by itself: an
// object, or a string that is short for an object with just the field short.
func (o *Object) Element(key string, raw json.RawMessage, short string) *Object {
	e := New(nil, At(o.name(key)), o.problems)
	switch KindOf(raw) {
	case "a string":
		e.values = map[string]json.RawMessage{short: raw}
	case "an object":
		if err := json.Unmarshal(raw, &e.values); err != nil {
			e.FailWith("", err)
		}
	default:
		e.FailWith("", hint.With(errors.New("want a string or an object, got "+KindOf(raw)), "write a URL, or an object with %s and trusted_public_keys", short))
	}
	return e
}

// Require refuses an object that has nothing at key.
func (o *Object) Require(key, advice string) {
	if !o.Has(key) {
		o.FailWith(key, hint.With(errors.New("missing"), "%s", advice))
	}
}

// Has says whether there is a value at key.
func (o *Object) Has(key string) bool {
	_, ok := o.Raw(key)
	return ok
}

// Raw takes what is at key, whatever it is.
func (o *Object) Raw(key string) (json.RawMessage, bool) {
	if !slices.Contains(o.known, key) {
		o.known = append(o.known, key)
	}
	raw, ok := o.values[key]
	return raw, ok && !bytes.Equal(raw, []byte("null"))
}

// value decodes what is at key into a pointer to a string or a boolean.
func (o *Object) value(key, want string, into any) {
	raw, ok := o.Raw(key)
	if !ok || json.Unmarshal(raw, into) == nil {
		return
	}
	o.Fail(key, "want %s, got %s", want, KindOf(raw))
}

// chomp drops the line end after a text.
func chomp(text string) string { return strings.TrimRight(text, "\r\n") }

// Fail records a problem with a field, or with the object as a whole if key is "".
func (o *Object) Fail(key, format string, args ...any) {
	o.FailWith(key, fmt.Errorf(format, args...))
}

// FailWith is Fail for an error that may carry a hint.
func (o *Object) FailWith(key string, err error) {
	o.problems.Add(fmt.Errorf("%s: %w", o.name(key), err))
}

// Known are the fields that were taken.
func (o *Object) Known() []string { return slices.Clone(o.known) }

// Ignore takes those unknown fields that are none of the object's.
func (o *Object) Ignore(is func(key string) bool) {
	for key := range o.values {
		if !slices.Contains(o.known, key) && is(key) {
			delete(o.values, key)
		}
	}
}

// Finish refuses the fields that were not taken.
func (o *Object) Finish() {
	for _, key := range slices.Sorted(maps.Keys(o.values)) {
		if !slices.Contains(o.known, key) {
			o.FailWith(key, hint.With(errors.New("unknown key"), "%s", o.advice(key)))
		}
	}
}

// advice says what to write in place of an unknown field.
func (o *Object) advice(key string) string {
	if advice, ok := o.Moved[key]; ok {
		return advice
	}
	if near := hint.Nearest(key, o.known); near != "" {
		if o.Respell != nil {
			near = o.Respell(key, near)
		}
		return "did you mean " + near + "?"
	}
	return "known keys of " + o.name("") + ": " + strings.Join(slices.Sorted(slices.Values(o.known)), ", ")
}

// KindOf names the kind of a JSON value, with its article.
func KindOf(raw json.RawMessage) string {
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
