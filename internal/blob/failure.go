package blob

import (
	"context"
	"fmt"
	"strconv"
)

// failed is the error of a Store's method: what it was doing to which object.
func failed(doing, key string, s Store, err error) error {
	if !ValidKey(key) {
		key = strconv.Quote(key)
	}
	return fmt.Errorf("%s %s of %s: %w", doing, key, s, err)
}

// check is what every method does first.
func check(ctx context.Context, key string) error {
	if !ValidKey(key) {
		return fmt.Errorf("the name is not valid")
	}
	return ctx.Err()
}

// checkOffset is the error of a Get that begins beyond the end.
func checkOffset(offset, size int64) error {
	if offset < 0 || offset > size {
		return fmt.Errorf("offset %d is outside of the object's %d bytes", offset, size)
	}
	return nil
}
