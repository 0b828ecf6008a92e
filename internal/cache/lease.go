package cache

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A lease tells a garbage collector that a push is in flight, which may rely on
// whatever the cache had when it began. A push that fails or is interrupted gives it
// up. One that was left behind by a writer that got killed is told by its age.
type lease struct {
	Root    nix.StorePath `json:"root"`
	Created int64         `json:"created"` // unix seconds
}

// takeLeases writes a lease for each root and returns the keys of those that it
// has or may have written, also if there is an error.
func (c *Cache) takeLeases(ctx context.Context, roots []nix.StorePath) ([]string, error) {
	keys := make([]string, len(roots))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxUploads)
	if len(roots) > 0 {
		group.Go(func() error { // NARs will be next, so the store may as well find out now
			blob.Prepare(ctx, c.store) // that write tells of its errors
			return nil
		})
	}
	for i, root := range roots {
		group.Go(func() (err error) {
			keys[i], err = c.takeLease(ctx, root)
			return err
		})
	}
	err := group.Wait()
	return slices.DeleteFunc(keys, func(key string) bool { return key == "" }), err
}

// CheckWritable returns an error if a push of root would be refused, as far as that
// can be told without one: it takes a lease, and gives it up. Whoever builds for hours
// before a push asks first.
func (c *Cache) CheckWritable(ctx context.Context, root nix.StorePath) error {
	keys, err := c.takeLeases(ctx, []nix.StorePath{root})
	if err == nil {
		err = blob.Prepare(ctx, c.store) // takeLeases has done that: now it costs nothing
	}
	return errors.Join(err, c.dropLeases(ctx, keys))
}

// farewell is how long an interrupted push may take to give up its leases: less than
// Concourse waits between SIGTERM and SIGKILL.
const farewell = 5 * time.Second

// dropLeases deletes leases, also if ctx is done.
func (c *Cache) dropLeases(ctx context.Context, keys []string) error {
	err := c.deleteAll(ctx, keys)
	if ctx.Err() != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		return c.deleteAll(ctx, keys)
	}
	return err
}

// deleteAll deletes objects, side by side.
func (c *Cache) deleteAll(ctx context.Context, keys []string) error {
	var group errgroup.Group
	group.SetLimit(maxUploads)
	for _, key := range keys {
		group.Go(func() error { return c.store.Delete(ctx, key) })
	}
	return group.Wait()
}

// takeLease writes a lease for root and returns its key; also of one that it can't
// tell whether it is written, because ctx is done.
func (c *Cache) takeLease(ctx context.Context, root nix.StorePath) (string, error) {
	text, err := json.Marshal(lease{root, time.Now().Unix()})
	if err != nil {
		return "", err
	}
	key := "leases/" + randomName()
	_, err = c.store.Put(ctx, key, strings.NewReader(string(text)+"\n"), blob.PutOptions{
		ContentType:  "application/json",
		CacheControl: volatile,
	})
	if err != nil && ctx.Err() == nil {
		key = ""
	}
	if err != nil {
		err = fmt.Errorf("announcing the push of %s: %w", root, err)
	}
	return key, err
}

// randomName is unique: 160 bits in nix32, of the length of a store path's hash.
func randomName() string {
	b := make([]byte, 20)
	rand.Read(b)
	return nixbase32.EncodeToString(b)
}
