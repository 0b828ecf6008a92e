// Package hint carries advice along with an error.
//
// An error of this project says what failed, on what and why; where a person
// can do something about it, it also says what, in a separate sentence. The
// libraries attach that sentence with [With]; the outermost layer prints it on a
// line of its own, after "hint:". Rules for both: lower case, no full stop, no
// secret.
//
// A library doesn't know where its user can follow the advice: in a pipeline, on
// a command line, or in a NixOS configuration. So it names what each of them has
// an own word for by a [Term], and the layer that prints says the word.
package hint

import (
	"errors"
	"fmt"
)

// A Term is something that an advice names and that each front has its own word
// for: a setting, a parameter, an action. Its text is the word that a pipeline
// has. It is an argument of [With].
type Term string

// Words says a front's own word for a term; "" for the term's own text.
type Words func(Term) string

// With returns err with advice attached. Terms among args are replaced by the
// words of the front that prints the advice. The result prints as err does and
// unwraps to it. With returns nil if err is nil.
func With(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, format, args}
}

// Of returns the advice attached to err and to the errors that it wraps,
// outermost first, in a pipeline's words. The result is empty if there is none.
func Of(err error) []string { return Worded(err, nil) }

// Worded is [Of] in the words of a front; nil is a pipeline's.
func Worded(err error, words Words) []string {
	var hints []string
	walk(err, func(h *hinted) { hints = append(hints, h.advice(words)) })
	return hints
}

type hinted struct {
	err    error
	format string
	args   []any
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

func (h *hinted) advice(words Words) string {
	args := make([]any, len(h.args))
	for i, arg := range h.args {
		args[i] = arg
		if term, ok := arg.(Term); ok && words != nil {
			if word := words(term); word != "" {
				args[i] = word
			}
		}
	}
	return fmt.Sprintf(h.format, args...)
}

func walk(err error, visit func(*hinted)) {
	for err != nil {
		if h, ok := err.(*hinted); ok {
			visit(h)
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				walk(e, visit)
			}
			return
		}
		err = errors.Unwrap(err)
	}
}
