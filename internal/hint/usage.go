package hint

import "errors"

// Usage marks err as being about what a person has asked for: an argument, a
// setting or a parameter is wrong, and nothing was done. Usage returns nil if err
// is nil.
func Usage(err error) error {
	if err == nil {
		return nil
	}
	return &usage{err}
}

// IsUsage says whether err, or an error that it wraps, was marked by [Usage].
func IsUsage(err error) bool {
	var u *usage
	return errors.As(err, &u)
}

type usage struct{ error }

func (u *usage) Unwrap() error { return u.error }
