package blob

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// failed is the error of a Store's method: what it was doing to which object.
func failed(doing, key string, s Store, err error) error {
	if !ValidKey(key) {
		key = strconv.Quote(key)
	}
	return fmt.Errorf("%s %s in %s: %w", doing, key, s, err)
}

// check is what every method does first.
func check(ctx context.Context, key string) error {
	if !ValidKey(key) {
		return errors.New("the name is not valid")
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

// beginsKeys says whether there can be objects whose keys begin with prefix.
func beginsKeys(prefix string) bool {
	dir, _ := path.Split(prefix)
	return dir == "" || ValidKey(strings.TrimSuffix(dir, "/"))
}
