package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

func TestPushThenFetch(t *testing.T) {
	for _, compression := range []string{"zstd", "xz", "none"} {
		t.Run(compression, func(t *testing.T) {
			s, root := sample(t)
			key := newKey(t, "test-1")
			place := blob.NewMemory()
			c := New(place, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}, Compression: compression})
			pushed := push(t, c, s, root)
			if pushed.SentPaths != 4 || len(pushed.Closure.Paths) != 4 {
				t.Errorf("sent %d paths of a closure of %d, want 4 of 4", pushed.SentPaths, len(pushed.Closure.Paths))
			}
			if err := pushed.Release(t.Context()); err != nil {
				t.Error(err)
			}
			if leases := keys(t, place, "leases/"); leases != nil {
				t.Errorf("leases left behind: %v", leases)
			}

			reader := New(place, Config{RequireSigs: true, PublicKeys: nix.Keys{key.Public()}})
			closure, err := reader.Closure(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, ni := range closure.Paths {
				names = append(names, ni.Path.Name())
			}
			for i, ni := range closure.Paths {
				for _, ref := range ni.References {
					if j := slices.IndexFunc(closure.Paths, func(n NarInfo) bool { return n.Path == ref }); j > i {
						t.Errorf("%s comes before its reference: %v", ni.Path.Name(), names)
					}
				}
			}
			var meter Meter
			sink := &store{}
			if err := reader.Fetch(t.Context(), closure, sink, &meter); err != nil {
				t.Fatal(err)
			}
			for path, want := range s.nars {
				got, _ := sink.dumps.Load(path)
				if diff := cmp.Diff(len(want), len(got.([]byte))); diff != "" || string(want) != string(got.([]byte)) {
					t.Errorf("%s came back different %s", path, diff)
				}
			}
			if meter.DonePaths.Load() != 4 || meter.DoneBytes.Load() != closure.NarSize() || meter.TotalBytes.Load() != closure.NarSize() {
				t.Errorf("the meter says %d paths, %d of %d bytes; want 4 and %d",
					meter.DonePaths.Load(), meter.DoneBytes.Load(), meter.TotalBytes.Load(), closure.NarSize())
			}
		})
	}
}

// Promise 1: the order in which things become visible.
func TestNarinfoAfterNARAndReferences(t *testing.T) {
	s := &store{}
	random := rand.New(rand.NewPCG(1, 2))
	var paths []nix.StorePath
	for i := range 60 {
		var refs []nix.StorePath
		for _, p := range paths {
			if random.IntN(8) == 0 {
				refs = append(refs, p)
			}
		}
		paths = append(paths, s.add(t, "p-"+string(rune('a'+i%26))+string(rune('a'+i/26)), strings.Repeat("x", random.IntN(50000)), refs...))
	}
	root := s.add(t, "root", "", paths...)
	rec := &recorder{Store: blob.NewMemory()}
	c := New(rec, Config{})
	push(t, c, s, root)

	visible := map[string]bool{}
	for _, req := range rec.requests("HAS") {
		key := strings.TrimPrefix(req, "HAS ")
		visible[key] = true
		if key == manifestKey(root) {
			for _, info := range s.infos {
				if !visible[narinfoKey(info.Path)] {
					t.Errorf("the manifest became visible before %s", narinfoKey(info.Path))
				}
			}
		}
		if !strings.HasSuffix(key, ".narinfo") {
			continue
		}
		ni, err := ParseNarInfo(read(t, rec.Store, key))
		if err != nil {
			t.Fatal(err)
		}
		if !visible[ni.URL] {
			t.Errorf("%s became visible before its NAR", ni.Path)
		}
		for _, ref := range ni.References {
			if !visible[narinfoKey(ref)] {
				t.Errorf("%s became visible before its reference %s", ni.Path, ref)
			}
		}
	}
}

// A write that fails leaves a valid cache, and pushing again completes it.
func TestPushInterruptedAnywhere(t *testing.T) {
	s, root := sample(t)
	for n := 1; ; n++ {
		place := blob.NewMemory()
		var mu sync.Mutex
		writes := 0
		rec := &recorder{Store: place, fail: func(request string) error {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasPrefix(request, "PUT") {
				if writes++; writes >= n {
					return errors.New("cut off")
				}
			}
			return nil
		}}
		_, err := New(rec, Config{}).Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s})
		if err == nil {
			if n < 10 {
				t.Errorf("the push takes only %d writes", n)
			}
			return
		}
		checkValid(t, place)
		if _, err := New(place, Config{}).Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s}); err != nil {
			t.Fatalf("after %d writes: %v", n-1, err)
		}
		checkValid(t, place)
		if _, err := New(place, Config{}).Closure(t.Context(), root); err != nil {
			t.Errorf("after %d writes and a second push: %v", n-1, err)
		}
	}
}

// A push that is interrupted, whatever it has just written, gives up its lease,
// though the context of all that it does is done.
func TestPushInterruptedGivesUpItsLease(t *testing.T) {
	s, root := sample(t)
	for n := 1; ; n++ {
		place := blob.NewMemory()
		ctx, interrupt := context.WithCancel(t.Context())
		var mu sync.Mutex
		writes := 0
		store := unanswering{&recorder{Store: place, fail: func(request string) error {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasPrefix(request, "HAS") { // it was written
				if writes++; writes == n {
					interrupt()
				}
			}
			return nil
		}}}
		pushed, err := New(store, Config{}).Push(ctx, PushRequest{Root: root, Infos: s.closure(root), Source: s})
		if err == nil {
			err = pushed.Release(ctx)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if leases := keys(t, place, "leases/"); leases != nil {
			t.Errorf("interrupted after write %d, it leaves leases: %v", n, leases)
		}
		checkValid(t, place)
		if ctx.Err() == nil {
			if n < 10 {
				t.Errorf("the push takes only %d writes", n)
			}
			return
		}
	}
}

// An unanswering store doesn't say what it has written if the context is done by
// then.
type unanswering struct{ blob.Store }

func (u unanswering) Put(ctx context.Context, key string, body io.Reader, opts blob.PutOptions) (blob.Info, error) {
	info, err := u.Store.Put(ctx, key, body, opts)
	if ctx.Err() != nil {
		return blob.Info{}, ctx.Err()
	}
	return info, err
}

// checkValid checks that each narinfo's references and NAR are there.
func checkValid(t testing.TB, place blob.Store) {
	t.Helper()
	c := New(place, Config{})
	for _, key := range keys(t, place, "") {
		if !strings.HasSuffix(key, ".narinfo") {
			continue
		}
		ni, err := ParseNarInfo(read(t, place, key))
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range ni.References {
			if _, err := place.Stat(t.Context(), narinfoKey(ref)); err != nil {
				t.Errorf("%s is there, but not its reference %s", ni.Path, ref)
			}
		}
		if err := c.verifyNAR(t.Context(), &ni, nil, &Meter{}); err != nil {
			t.Error(err)
		}
	}
}

func TestPushSendsOnlyWhatIsMissing(t *testing.T) {
	s, root := sample(t)
	key := newKey(t, "test-1")
	rec := &recorder{Store: blob.NewMemory()}
	c := New(rec, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}})
	push(t, c, s, root)
	s.dumped()

	// A new cache isn't asked for what it can't have.
	for _, req := range rec.requests("GET") {
		if strings.HasSuffix(req, ".narinfo") {
			t.Errorf("asked a new cache: %s", req)
		}
	}

	// The same again: one request, besides the lease.
	rec.requests("")
	pushed := push(t, c, s, root, root)
	if diff := cmp.Diff([]string{"GET " + manifestKey(root)}, rec.requests("")); diff != "" || pushed.SentPaths != 0 {
		t.Errorf("pushing again sent %d paths with other requests (-want +got)\n%s", pushed.SentPaths, diff)
	}

	// The next day's system.
	var old []nix.StorePath
	for _, info := range s.infos {
		old = append(old, info.Path)
	}
	nginx := s.add(t, "nginx-2", "a new package", old[0])
	next := s.add(t, "nixos-system-web-2", "the next system", append(old[:3:3], nginx)...)
	rec.requests("")
	push(t, c, s, next, root)
	if diff := cmp.Diff([]string{"nginx-2", "nixos-system-web-2"}, s.dumped()); diff != "" {
		t.Errorf("sent (-want +got)\n%s", diff)
	}
	requests := rec.requests("")
	requests = slices.DeleteFunc(requests, func(r string) bool { return strings.HasPrefix(r, "HAS") })
	if len(requests) > 3*2+6 {
		t.Errorf("%d requests for two new paths:\n%s", len(requests), strings.Join(requests, "\n"))
	}

	// Without manifests it asks path by path, and sends nothing either.
	for _, k := range keys(t, rec.Store, "closures/") {
		if err := rec.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	if pushed = push(t, c, s, next, next); pushed.SentPaths != 0 {
		t.Errorf("sent %d paths that were there", pushed.SentPaths)
	}

	// ... and leaves one for the next time.
	if diff := cmp.Diff([]string{manifestKey(next)}, keys(t, rec.Store, "closures/")); diff != "" {
		t.Errorf("manifests (-want +got)\n%s", diff)
	}
}

// Only a manifest says that a cache was begun by a writer who saw to its
// nix-cache-info; a closure that was found path by path doesn't.
func TestCacheInfoIsMended(t *testing.T) {
	s, root := sample(t)
	place := blob.NewMemory()
	push(t, New(place, Config{}), s, root)
	for _, key := range []string{infoKey, manifestKey(root)} {
		if err := place.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	next := s.add(t, "nixos-system-web-2", "the next system", root)
	push(t, New(place, Config{}), s, next, root)
	if diff := cmp.Diff("StoreDir: /nix/store\n", read(t, place, infoKey)); diff != "" {
		t.Errorf("nix-cache-info (-want +got)\n%s", diff)
	}
}

// Nobody else's narinfo is replaced, and none is believed without reason.
func TestPushMeetsForeignNarinfos(t *testing.T) {
	unsigned := func(text string) string { return text[:strings.Index(text, "Sig: ")] }
	ours, theirs := newKey(t, "ours-1"), newKey(t, "theirs-1")
	config := Config{RequireSigs: true, SigningKeys: []nix.SecretKey{ours}}
	setUp := func(t *testing.T) (*store, nix.StorePath, nix.StorePath, *blob.Memory) {
		s, root := sample(t)
		place := blob.NewMemory()
		push(t, New(place, Config{SigningKeys: []nix.SecretKey{theirs}}), s, root)
		if err := place.Delete(t.Context(), manifestKey(root)); err != nil {
			t.Fatal(err)
		}
		return s, root, s.infos[0].Path, place
	}

	t.Run("signed by a stranger, same content: looked at, then signed", func(t *testing.T) {
		s, root, lib, place := setUp(t)
		before := read(t, place, narinfoKey(lib))
		s.dumped()
		pushed := push(t, New(place, config), s, root)
		if pushed.SentPaths != 0 || pushed.Signed != 4 {
			t.Errorf("sent %d, signed %d; want 0 and 4", pushed.SentPaths, pushed.Signed)
		}
		after := read(t, place, narinfoKey(lib))
		if added, ok := strings.CutPrefix(after, before); !ok || strings.Count(added, "\n") != 1 || !strings.HasPrefix(added, "Sig: ours-1:") {
			t.Errorf("the narinfo was changed in another way than by a signature:\n%s", cmp.Diff(before, after))
		}
	})
	t.Run("unsigned, same content, but the file is not it", func(t *testing.T) {
		s, root, lib, place := setUp(t)
		edit(t, place, lib, unsigned)
		ni, err := ParseNarInfo(read(t, place, narinfoKey(lib)))
		if err != nil {
			t.Fatal(err)
		}
		write(t, place, ni.URL, "junk")
		_, err = New(place, config).Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s})
		wantError(t, err, lib.String(), "unpacking")
	})
	t.Run("unsigned, other content", func(t *testing.T) {
		s, root, lib, place := setUp(t)
		s.set(t, lib, "built otherwise")
		_, err := New(place, config).Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s})
		wantError(t, err, lib.String(), "another content", "no signature by a trusted key")
	})
	t.Run("trusted, other content: the cache's is the truth", func(t *testing.T) {
		s, root, lib, place := setUp(t)
		before := read(t, place, narinfoKey(lib))
		s.set(t, lib, "built otherwise")
		trusting := config
		trusting.PublicKeys = nix.Keys{theirs.Public()}
		pushed := push(t, New(place, trusting), s, root)
		if diff := cmp.Diff([]nix.StorePath{lib}, pushed.Unreproducible, cmp.AllowUnexported(nix.StorePath{}, nix.ContentAddress{})); diff != "" {
			t.Errorf("unreproducible (-want +got)\n%s", diff)
		}
		if after := read(t, place, narinfoKey(lib)); !strings.HasPrefix(after, before) {
			t.Errorf("the cache's narinfo was replaced:\n%s", after)
		}
		closure, err := New(place, Config{RequireSigs: true, PublicKeys: nix.Keys{ours.Public()}}).Closure(t.Context(), root)
		if err != nil {
			t.Fatal(err)
		}
		for _, ni := range closure.Paths {
			if ni.Path == lib && strings.Contains(before, ni.NarHash.String()) == false {
				t.Error("the manifest has the other content")
			}
		}
	})
	t.Run("unsigned, no signatures required: left alone", func(t *testing.T) {
		s, root, lib, place := setUp(t)
		edit(t, place, lib, unsigned)
		before := read(t, place, narinfoKey(lib))
		s.set(t, lib, "built otherwise")
		lax := Config{SigningKeys: []nix.SecretKey{ours}}
		push(t, New(place, lax), s, root)
		if after := read(t, place, narinfoKey(lib)); after != before {
			t.Errorf("we have signed what we don't know:\n%s", after)
		}
	})
	t.Run("the narinfo of another path", func(t *testing.T) {
		s, root, lib, place := setUp(t)
		write(t, place, narinfoKey(lib), read(t, place, narinfoKey(root)))
		_, err := New(place, config).Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s})
		wantError(t, err, lib.String(), "it describes "+root.String())
	})
}

// Key rotation: a new key is added to what the old one vouched for.
func TestPushAddsNewKey(t *testing.T) {
	s, root := sample(t)
	old, new := newKey(t, "k-1"), newKey(t, "k-2")
	place := blob.NewMemory()
	push(t, New(place, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{old}}), s, root)
	pushed := push(t, New(place, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{old, new}}), s, root, root)
	if pushed.Signed != 4 || pushed.SentPaths != 0 {
		t.Errorf("signed %d, sent %d; want 4 and 0", pushed.Signed, pushed.SentPaths)
	}
	rec := &recorder{Store: place}
	onlyNew := New(rec, Config{RequireSigs: true, PublicKeys: nix.Keys{new.Public()}})
	if _, err := onlyNew.Closure(t.Context(), root); err != nil {
		t.Error(err)
	}
	if requests := rec.requests("GET"); len(requests) != 1 {
		t.Errorf("the manifest wasn't written anew: %v", requests)
	}
}

// Promise 2: what the local store says about a path is checked on its bytes.
func TestPushOfDamagedStore(t *testing.T) {
	for _, large := range []bool{false, true} {
		s, root := sample(t)
		victim := s.infos[0].Path
		if large {
			for _, info := range s.infos {
				if info.NarSize > smallNAR {
					victim = info.Path
				}
			}
		}
		bytes := slices.Clone(s.nars[victim])
		bytes[len(bytes)/2] ^= 1
		s.nars[victim] = bytes
		place := blob.NewMemory()
		_, err := New(place, Config{}).Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s})
		wantError(t, err, victim.String(), "NarHash")
		if _, err := place.Stat(t.Context(), narinfoKey(victim)); !errors.Is(err, blob.ErrNotExist) {
			t.Error("the damaged path became visible")
		}
		checkValid(t, place)
	}
}

func TestPushersRace(t *testing.T) {
	s, root := sample(t)
	key := newKey(t, "test-1")
	place := blob.NewMemory()
	var group sync.WaitGroup
	for range 6 {
		group.Go(func() {
			c := New(place, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}})
			if _, err := c.Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	checkValid(t, place)
}

// A write whose answer was lost has happened.
func TestPushWithLostAnswers(t *testing.T) {
	s, root := sample(t)
	place := blob.NewMemory()
	var mu sync.Mutex
	rec := &recorder{Store: place, fail: func(request string) error { return nil }}
	lossy := &lostAnswers{Store: rec, lose: func(key string) bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.HasSuffix(key, ".narinfo")
	}}
	key := newKey(t, "test-1")
	push(t, New(lossy, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}}), s, root)
	another := newKey(t, "test-2")
	pushed := push(t, New(lossy, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key, another}}), s, root)
	if pushed.Signed != 4 {
		t.Errorf("signed %d, want 4", pushed.Signed)
	}
}

func TestPushWithoutKeyThatReadersNeed(t *testing.T) {
	s, root := sample(t)
	place := blob.NewMemory()
	_, err := New(place, Config{RequireSigs: true}).Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s})
	wantError(t, err, "nobody could use it")
	if got := keys(t, place, "nar/"); got != nil {
		t.Errorf("sent all the same: %v", got)
	}
}

func TestPushToCacheOfAnotherStoreDir(t *testing.T) {
	s, root := sample(t)
	place := blob.NewMemory()
	write(t, place, "nix-cache-info", "StoreDir: /gnu/store\n")
	_, err := New(place, Config{}).Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s})
	wantError(t, err, "/gnu/store")
}

func TestAcceptedForgets(t *testing.T) {
	var a accepted
	for i := range maxAccepted + 1 {
		a.add(fmt.Sprint(i), &NarInfo{})
	}
	if len(a.known) > maxAccepted || a.find(fmt.Sprint(maxAccepted)) == nil {
		t.Errorf("it knows %d, with or without the last", len(a.known))
	}
}
