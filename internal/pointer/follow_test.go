package pointer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// These tests are named after the attacks of the TUF specification: those of
// somebody who may serve what they like, and has no key, or has had one.

// A host looks at a pointer again and again, and remembers.
type host struct {
	t *testing.T
	Follower
	now time.Time
}

func newHost(t *testing.T) *host {
	return &host{t, Follower{System: "x86_64-linux", Running: path("a"), Skew: time.Minute}, start}
}

// accepts looks at a pointer, which must offer that path.
func (h *host) accepts(p *Pointer, label string) {
	h.t.Helper()
	g, err := h.look(p)
	if err != nil {
		h.t.Fatal(err)
	}
	if g.Path != path(label) {
		h.t.Errorf("want %s, got %s", path(label), g.Path)
	}
}

// refuses looks at a pointer, which must offer nothing for that reason.
func (h *host) refuses(p *Pointer, want Reason) {
	h.t.Helper()
	g, err := h.look(p)
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Reason != want {
		h.t.Errorf("want a refusal for %q, got generation %d and %v", want, g.Number, err)
	}
	if !g.Path.IsZero() {
		h.t.Errorf("generation %d is returned although it is refused", g.Number)
	}
}

func (h *host) look(p *Pointer) (Generation, error) {
	h.t.Helper()
	history, err := p.Read(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	g, seen, err := p.Accept(history, h.Follower, h.now)
	h.Seen = seen
	return g, err
}

// copyOf is a store with what another one holds now.
func copyOf(t *testing.T, store blob.Store) blob.Store {
	t.Helper()
	dst := blob.NewMemory()
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		object, err := store.Get(t.Context(), info.Key, blob.GetOptions{})
		if err == nil {
			_, err = dst.Put(t.Context(), info.Key, object.Body, blob.PutOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dst
}

func TestFollow(t *testing.T) {
	store, h := blob.NewMemory(), newHost(t)
	mustAppend(t, open(store), "a")
	h.accepts(open(store), "a")
	mustAppend(t, open(store), "b", "c", "a")
	h.accepts(open(store), "a")
	want := Seen{Number: 4, Path: path("a"), Created: start.Unix(), Keys: []string{ours.Public().String()}}
	if diff := cmp.Diff(want, h.Seen, cmp.Comparer(func(a, b nix.StorePath) bool { return a == b })); diff != "" {
		t.Errorf("remembered (-want +got):\n%s", diff)
	}
}

func TestRollbackAttack(t *testing.T) {
	store, h := blob.NewMemory(), newHost(t)
	mustAppend(t, open(store), "a", "b")
	old := copyOf(t, store)
	mustAppend(t, open(store), "c")
	h.accepts(open(store), "c")
	h.refuses(open(old), Rollback)
	h.refuses(open(blob.NewMemory()), Rollback) // to before the first
	h.accepts(open(store), "c")
}

// What was verified counts, even if it was not run.
func TestRollbackBehindARefusedGeneration(t *testing.T) {
	store, h := blob.NewMemory(), newHost(t)
	mustAppend(t, open(store), "a")
	h.accepts(open(store), "a")
	old := copyOf(t, store)
	p := proposal("b")
	p.System = "aarch64-linux"
	if _, err := open(store).Append(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	h.refuses(open(store), WrongSystem)
	h.refuses(open(old), Rollback)
}

func TestReplacedGeneration(t *testing.T) {
	store, other, h := blob.NewMemory(), blob.NewMemory(), newHost(t)
	mustAppend(t, open(store), "a", "b")
	mustAppend(t, open(other), "a", "c")
	h.accepts(open(store), "b")
	h.refuses(open(other), Replaced)
	h.accepts(open(store), "b")
}

func TestFreezeAttack(t *testing.T) {
	expiring := func(c *Config) { c.ExpiresAfter = 7 * 24 * time.Hour }
	store, h := blob.NewMemory(), newHost(t)
	mustAppend(t, open(store, expiring), "a")
	h.accepts(open(store), "a")
	h.now = h.now.Add(7 * 24 * time.Hour)
	h.refuses(open(store), Expired)

	// Renewed in place: the same number and path, later.
	frozen := copyOf(t, store)
	clock := clock{h.now}
	mustAppend(t, open(store, expiring, func(c *Config) { c.Now = clock.Now }), "a")
	h.accepts(open(store), "a")

	// A clock that somebody has set back doesn't thaw what has expired, once
	// something later was seen.
	mustAppend(t, open(store, expiring, func(c *Config) { c.Now = clock.Now }), "b")
	h.accepts(open(store), "b")
	h.now = start
	h.Seen.Number, h.Seen.Path = 1, path("a")
	h.refuses(open(frozen), Expired)
}

// With the key, somebody has made a number that no other exceeds. A new key ends
// it, where what is run is still among what is offered.
func TestFastForwardAttack(t *testing.T) {
	store, h := blob.NewMemory(), newHost(t)
	mustAppend(t, open(store), "a")
	h.accepts(open(store), "a")
	forged, err := open(store).generation(maxNumber, proposal("z"))
	if err != nil {
		t.Fatal(err)
	}
	attacked := copyOf(t, store)
	rewrite(t, attacked, forged)
	h.accepts(open(attacked), "z") // they have the key

	h.refuses(open(store), Rollback)
	renewed := blob.NewMemory()
	mustAppend(t, open(renewed, signedBy(next), accepting(next)), "a", "b")
	h.accepts(open(renewed, accepting(next)), "b")
	if h.Seen.Number != 2 {
		t.Errorf("want generation 2 to be remembered, got %d", h.Seen.Number)
	}
}

// rewrite makes g the only generation of web-1.
func rewrite(t *testing.T, store blob.Store, g Generation) {
	t.Helper()
	p := open(store)
	history, err := p.Read(t.Context())
	if err == nil {
		err = p.replace(context.WithoutCancel(t.Context()), history, []Generation{g})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A second key doesn't make a pointer another one, as long as the first counts.
func TestRotationKeepsMemory(t *testing.T) {
	store, h := blob.NewMemory(), newHost(t)
	mustAppend(t, open(store), "a")
	old := copyOf(t, store)
	mustAppend(t, open(store, signedBy(ours, next), accepting(ours, next)), "b")
	h.accepts(open(store, accepting(ours, next)), "b")
	h.refuses(open(old, accepting(ours, next)), Rollback)
	h.accepts(open(store, accepting(next)), "b") // the old key is gone, and the new one had signed it
}

// A closure for other machines is no closure for this one, whoever has signed it.
func TestWrongSystem(t *testing.T) {
	store, h := blob.NewMemory(), newHost(t)
	mustAppend(t, open(store), "a")
	h.System = "aarch64-linux"
	h.refuses(open(store), WrongSystem)
}

// All generations of another pointer are signed, but for that one.
func TestWrongPointer(t *testing.T) {
	store := blob.NewMemory()
	mustAppend(t, open(store), "a")
	object, err := store.Get(t.Context(), object, blob.GetOptions{})
	if err == nil {
		_, err = store.Put(t.Context(), "pointers/web-2.json", object.Body, blob.PutOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(store, func(c *Config) { c.Name = "web-2" }).Read(t.Context()); !errors.Is(err, ErrInvalid) {
		t.Errorf("want an error that is ErrInvalid, got %v", err)
	}
}

func TestGenerationFromTheFuture(t *testing.T) {
	store, h := blob.NewMemory(), newHost(t)
	mustAppend(t, open(store), "a")
	later := clock{start.Add(61 * time.Second)}
	mustAppend(t, open(store, func(c *Config) { c.Now = later.Now }), "b")
	h.refuses(open(store), Future)
	if h.Seen.Created != start.Unix() {
		t.Errorf("a time that was not believed is remembered: %d", h.Seen.Created)
	}
	h.now = h.now.Add(time.Second)
	h.accepts(open(store), "b")

	// Its own clock may have stopped; what it has seen is later than that.
	h.now = time.Unix(0, 0)
	h.accepts(open(store), "b")
}

// Whoever has lost the memory takes only what tells of what it runs.
func TestStateDeleted(t *testing.T) {
	store, h := blob.NewMemory(), newHost(t)
	mustAppend(t, open(store), "x", "y")
	h.refuses(open(store), Unknown)
	if h.Seen.Number != 0 {
		t.Errorf("generation %d is remembered though it was not trusted", h.Seen.Number)
	}
	h.refuses(open(store), Unknown) // nor does it the second time
	h.Running = nix.StorePath{}
	h.refuses(open(store), Unknown)
	h.TrustOnFirstUse = true
	h.accepts(open(store), "y")
	h.TrustOnFirstUse = false
	h.accepts(open(store), "y")

	other := newHost(t)
	other.Running = path("x")
	other.accepts(open(store), "y")
}

func TestPointerThatWasNeverPut(t *testing.T) {
	newHost(t).refuses(open(blob.NewMemory()), Missing)
}

func TestReadIfChanged(t *testing.T) {
	store := blob.NewMemory()
	mustAppend(t, open(store), "a")
	history, err := open(store).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(store).ReadIfChanged(t.Context(), history.ETag()); !errors.Is(err, blob.ErrNotModified) {
		t.Errorf("want an error that is ErrNotModified, got %v", err)
	}
	mustAppend(t, open(store), "b")
	if _, err := open(store).ReadIfChanged(t.Context(), history.ETag()); err != nil {
		t.Error(err)
	}
}
