package changes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

// MaxObject is how many bytes of JSON a reader takes: some ten times what a
// large desktop needs when all of it changes.
const MaxObject = 4 << 20

// Key is where a store has what a pointer's generation changed.
func Key(pointer string, generation uint64) string {
	return "changes/" + pointer + "/" + strconv.FormatUint(generation, 10) + ".json"
}

// Write stores c as what the generation c.After.Generation of a pointer changed.
// Whoever has both generations writes the same, so it needs no condition and can
// be repeated.
func (c *Changes) Write(ctx context.Context, store blob.Store, pointer string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	key := Key(pointer, c.After.Generation)
	if len(data) > MaxObject {
		return &blob.TooLargeError{Key: key, Limit: MaxObject}
	}
	_, err = store.Put(ctx, key, bytes.NewReader(data), blob.PutOptions{
		ContentType:  "application/json",
		CacheControl: "public, max-age=31536000, immutable",
	})
	return err
}

// Read returns what Write has stored. The error wraps blob.ErrNotExist if that
// is nothing. It is not signed: nothing should depend on it.
func Read(ctx context.Context, store blob.Store, pointer string, generation uint64) (*Changes, error) {
	key := Key(pointer, generation)
	data, _, err := blob.ReadAll(ctx, store, key, MaxObject, blob.GetOptions{})
	if err != nil {
		return nil, err
	}
	c := new(Changes)
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("%s in %s is not valid: %w", key, store, err)
	}
	if c.After.Generation != generation {
		return nil, fmt.Errorf("%s in %s is not valid: it is about generation %d", key, store, c.After.Generation)
	}
	return c, nil
}
