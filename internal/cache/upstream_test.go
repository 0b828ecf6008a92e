package cache

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// named gives a memory store a URL of its own.
type named struct {
	blob.Store
	url string
}

func (n named) String() string { return n.url }

func (n named) Location() blob.Location { return blob.At(n.url) }

// What an upstream has is neither uploaded nor forgotten.
func TestSkipUpstream(t *testing.T) {
	ours, theirs := newKey(t, "ours-1"), newKey(t, "theirs-1")
	s, root := sample(t)
	a := s.infos[1].Path

	there := named{blob.NewMemory(), "https://upstream.example.org"}
	push(t, New(there, Config{SigningKeys: []nix.SecretKey{theirs}}), s, a)
	upstream := New(there, Config{RequireSigs: true, PublicKeys: nix.Keys{theirs.Public()}})
	here := blob.NewMemory()
	c := New(here, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{ours}, Substituters: []*Cache{upstream}})
	request := PushRequest{Root: root, Infos: s.closure(root), Source: s, Upstreams: []*Cache{upstream}}

	pushed, err := c.Push(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if pushed.SentPaths != 2 {
		t.Errorf("sent %d paths, want the 2 that the upstream lacks", pushed.SentPaths)
	}
	got := map[string]string{}
	for _, ni := range pushed.Closure.Paths {
		got[ni.Path.Name()] = ni.Upstream()
	}
	want := map[string]string{"lib-1": there.url, "a-1": there.url, "b-1": "", "nixos-system-web-1": ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("where the paths are (-want +got)\n%s", diff)
	}
	if n := strings.Count(read(t, here, manifestKey(root)), "\nUpstream: "+there.url+"\n"); n != 2 {
		t.Errorf("the manifest names the upstream %d times, want 2", n)
	}

	// Again: the manifest vouches for both caches.
	if pushed, err = c.Push(t.Context(), request); err != nil || pushed.SentPaths != 0 {
		t.Errorf("pushed again: %v, %v", pushed, err)
	}

	fetch := func(c *Cache) error {
		closure, err := c.Closure(t.Context(), root)
		if err != nil {
			return err
		}
		return c.Fetch(t.Context(), closure, &store{}, nil)
	}
	reading := Config{RequireSigs: true, PublicKeys: nix.Keys{ours.Public()}, Substituters: []*Cache{upstream}}
	if err := fetch(New(here, reading)); err != nil {
		t.Error(err)
	}
	// A path of the upstream is judged by the upstream's keys, not by ours.
	reading.Substituters = []*Cache{New(there, Config{RequireSigs: true, PublicKeys: nix.Keys{ours.Public()}})}
	wantError(t, fetch(New(here, reading)), "not whole", a.String())
	// An upstream that only the manifest names is not asked.
	reading.Substituters = nil
	wantError(t, fetch(New(here, reading)), "not whole", "is not in")

	// A copy holds everything, and names no upstream.
	reading.Substituters = []*Cache{upstream}
	both := New(here, reading)
	closure, err := both.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	dst := blob.NewMemory()
	if err := both.Copy(t.Context(), closure, dst, nil); err != nil {
		t.Fatal(err)
	}
	checkValid(t, dst)
	if manifest := read(t, dst, manifestKey(root)); strings.Contains(manifest, "Upstream") {
		t.Errorf("the copy still names an upstream:\n%s", manifest)
	}
	copied := New(dst, Config{RequireSigs: true, PublicKeys: nix.Keys{ours.Public(), theirs.Public()}})
	if err := fetch(copied); err != nil {
		t.Error(err)
	}
}

// That an upstream completes an earlier closure is no reason to leave it the
// paths of the next, unless that is asked for.
func TestPreviousFromUpstream(t *testing.T) {
	ours, theirs := newKey(t, "ours-1"), newKey(t, "theirs-1")
	s, root := sample(t)
	there := named{blob.NewMemory(), "https://upstream.example.org"}
	push(t, New(there, Config{SigningKeys: []nix.SecretKey{theirs}}), s, root)
	upstream := New(there, Config{RequireSigs: true, PublicKeys: nix.Keys{theirs.Public()}})
	c := New(blob.NewMemory(), Config{RequireSigs: true, SigningKeys: []nix.SecretKey{ours}, Substituters: []*Cache{upstream}})
	next := s.add(t, "nixos-system-web-2", "the next system", root)
	if pushed := push(t, c, s, next, root); pushed.SentPaths != 5 {
		t.Errorf("sent %d paths, want all 5", pushed.SentPaths)
	}
}

// What an upstream has lost when the closure is published was not skipped.
func TestUpstreamLosesAPath(t *testing.T) {
	theirs := newKey(t, "theirs-1")
	s, root := sample(t)
	rec := &recorder{Store: named{blob.NewMemory(), "https://upstream.example.org"}}
	push(t, New(rec, Config{SigningKeys: []nix.SecretKey{theirs}}), s, s.infos[0].Path)
	upstream := New(rec, Config{RequireSigs: true, PublicKeys: nix.Keys{theirs.Public()}})
	seen := 0
	rec.fail = func(request string) error {
		if request == "GET "+narinfoKey(s.infos[0].Path) {
			if seen++; seen > 1 {
				return blob.ErrNotExist
			}
		}
		return nil
	}
	here := blob.NewMemory()
	c := New(here, Config{Substituters: []*Cache{upstream}})
	_, err := c.Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s, Upstreams: []*Cache{upstream}})
	wantError(t, err, "disappeared from the upstream cache https://upstream.example.org")
	if got := keys(t, here, "closures/"); got != nil {
		t.Errorf("published all the same: %v", got)
	}
}

// An upstream that has gone away since the last push is done without: what was left
// to it is sent. That it can't be asked is no damage, nor is anything missing.
func TestUpstreamGoesAway(t *testing.T) {
	ours, theirs := newKey(t, "ours-1"), newKey(t, "theirs-1")
	s, root := sample(t)
	there := &recorder{Store: named{blob.NewMemory(), "https://upstream.example.org"}}
	push(t, New(there, Config{SigningKeys: []nix.SecretKey{theirs}}), s, s.infos[1].Path)
	here := blob.NewMemory()
	var warned []string
	open := func() (*Cache, *Cache) { // as in a process of its own
		upstream := New(there, Config{RequireSigs: true, PublicKeys: nix.Keys{theirs.Public()},
			Optional: true, Warn: func(err error) { warned = append(warned, err.Error()) }})
		return New(here, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{ours}, Substituters: []*Cache{upstream}}), upstream
	}
	pushTo := func(c, upstream *Cache, root nix.StorePath, previous ...*Closure) *Pushed {
		t.Helper()
		pushed, err := c.Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s, Upstreams: []*Cache{upstream}, Previous: previous})
		if err != nil {
			t.Fatal(err)
		}
		return pushed
	}
	c, upstream := open()
	if pushed := pushTo(c, upstream, root); pushed.SentPaths != 2 {
		t.Errorf("sent %d paths, want the 2 that the upstream lacks", pushed.SentPaths)
	}

	there.fail = func(string) error { return errors.New("connection refused") }
	c, _ = open()
	if _, err := c.Verify(t.Context(), []nix.StorePath{root}, false, nil); err == nil || !strings.Contains(err.Error(), "https://upstream.example.org can't be asked") {
		t.Errorf("verified: %v", err)
	}
	if err := here.Delete(t.Context(), manifestKey(root)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Closure(t.Context(), root)
	wantError(t, err, "not whole", "https://upstream.example.org can't be asked", "connection refused")

	// The manifest is there again, as another push would leave it, and there is
	// something to push.
	there.fail = nil
	c, upstream = open()
	pushTo(c, upstream, root)
	there.fail = func(string) error { return errors.New("connection refused") }
	warned = nil
	c, upstream = open()
	previous, err := c.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	next := s.add(t, "nixos-system-web-2", "the next system", root)
	pushed := pushTo(c, upstream, next, previous)
	if pushed.SentPaths != 3 {
		t.Errorf("sent %d paths, want the new one and the 2 that were left to the upstream", pushed.SentPaths)
	}
	if manifest := read(t, here, manifestKey(next)); strings.Contains(manifest, "Upstream") {
		t.Errorf("what was pushed still needs the upstream:\n%s", manifest)
	}
	checkValid(t, here)
	if len(warned) != 1 || !strings.Contains(warned[0], "going on without https://upstream.example.org") {
		t.Errorf("warned of %q", warned)
	}
}
