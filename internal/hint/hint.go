// Package hint carries advice along with an error.
//
// An error of this project says what failed, on what and why; where a person
// can do something about it, it also says what, in a separate sentence. The
// libraries attach that sentence with [With]; the outermost layer
// prints it on a line of its own, after "hint:". Rules for both: lower case,
// no full stop, no secret.
package hint

import (
	"errors"
	"fmt"
)

// With returns err with advice attached. The result prints as err does and
// unwraps to it. With returns nil if err is nil.
func With(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err, fmt.Sprintf(format, args...)}
}

// Of returns the advice attached to err and to the errors that it wraps,
// outermost first. The result is empty if there is none.
func Of(err error) []string {
	var hints []string
	walk(err, func(h *hinted) { hints = append(hints, h.advice) })
	return hints
}

type hinted struct {
	err    error
	advice string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

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
