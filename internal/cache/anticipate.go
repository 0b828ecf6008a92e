package cache

import (
	"context"
	"sync"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// anticipated is what is being done before somebody asks for it.
type anticipated struct {
	mu        sync.Mutex
	manifests map[nix.StorePath]*manifest
	leases    map[nix.StorePath]chan []string // the keys of those that were taken
}

// A manifest is what readManifest returns, once it is there.
type manifest struct {
	there   chan struct{} // is closed then
	paths   map[nix.StorePath]NarInfo
	err     error
	vouches bool // for the whole closure of the root
}

// Anticipate begins to read the manifest of a root, which is about to be asked
// for: whoever asks first, and only that one, is told what is being read. So
// nothing is remembered for longer than until it is used.
func (c *Cache) Anticipate(ctx context.Context, root nix.StorePath) {
	c.anticipated.mu.Lock()
	defer c.anticipated.mu.Unlock()
	if c.anticipated.manifests[root] != nil {
		return
	}
	m := &manifest{there: make(chan struct{})}
	c.anticipated.manifests = with(c.anticipated.manifests, root, m)
	go func() {
		defer close(m.there)
		m.paths, m.err = c.requestManifest(ctx, root)
		m.vouches = m.err == nil && c.vouched(root, m.paths) != nil
	}()
}

// Announce begins to take the lease of a push of a root, unless the root's
// manifest, which is being read, turns out to vouch for it. Who doesn't get as far
// as to the push has to call Withdraw.
func (c *Cache) Announce(ctx context.Context, root nix.StorePath) {
	c.anticipated.mu.Lock()
	defer c.anticipated.mu.Unlock()
	m := c.anticipated.manifests[root]
	if m == nil {
		return // the push will see
	}
	leases := make(chan []string, 1)
	c.anticipated.leases = with(c.anticipated.leases, root, leases)
	go func() {
		<-m.there
		if m.err != nil || m.vouches {
			leases <- nil
			return
		}
		keys, _ := c.takeLeases(ctx, []nix.StorePath{root}) // the push tries again
		leases <- keys
	}()
}

// Withdraw gives up the leases of announced roots that were not pushed.
func (c *Cache) Withdraw(ctx context.Context) error {
	c.anticipated.mu.Lock()
	leases := c.anticipated.leases
	c.anticipated.leases = nil
	c.anticipated.mu.Unlock()
	var keys []string
	for _, taken := range leases {
		keys = append(keys, <-taken...)
	}
	return c.dropLeases(ctx, keys)
}

// with is a map, which may be nil, with another entry.
func with[V any](m map[nix.StorePath]V, key nix.StorePath, value V) map[nix.StorePath]V {
	if m == nil {
		m = map[nix.StorePath]V{}
	}
	m[key] = value
	return m
}

// takeManifest returns what is being read of a root's manifest, or nil, and
// forgets it.
func (a *anticipated) takeManifest(root nix.StorePath) *manifest {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.manifests[root]
	delete(a.manifests, root)
	return m
}

// takeLeases returns the keys of the leases that were taken for an announced root,
// and forgets them.
func (a *anticipated) takeLeases(root nix.StorePath) []string {
	a.mu.Lock()
	leases := a.leases[root]
	delete(a.leases, root)
	a.mu.Unlock()
	if leases == nil {
		return nil
	}
	return <-leases
}
