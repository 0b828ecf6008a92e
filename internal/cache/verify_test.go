package cache

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Whatever is damaged is found, all at once, and what Verify says is to be
// deleted makes a push send it again.
func TestVerify(t *testing.T) {
	key := newKey(t, "ours-1")
	for _, test := range []struct {
		name    string
		deep    bool
		damage  func(t *testing.T, place blob.Store, ni map[string]NarInfo)
		want    []string // names of damaged paths
		mending bool     // a push after deleting mends it
	}{
		{"nothing", true, func(*testing.T, blob.Store, map[string]NarInfo) {}, nil, false},
		{"no narinfo", false, func(t *testing.T, place blob.Store, ni map[string]NarInfo) {
			remove(t, place, narinfoKey(ni["a-1"].Path))
		}, []string{"a-1"}, true},
		{"no narinfo and no manifest", false, func(t *testing.T, place blob.Store, ni map[string]NarInfo) {
			root := ni["nixos-system-web-1"].Path
			remove(t, place, narinfoKey(root))
			remove(t, place, manifestKey(root))
		}, []string{"nixos-system-web-1"}, true},
		{"no file", false, func(t *testing.T, place blob.Store, ni map[string]NarInfo) {
			remove(t, place, ni["lib-1"].URL)
			remove(t, place, ni["b-1"].URL)
		}, []string{"b-1", "lib-1"}, true},
		{"short file", false, func(t *testing.T, place blob.Store, ni map[string]NarInfo) {
			write(t, place, ni["lib-1"].URL, read(t, place, ni["lib-1"].URL)[1:])
		}, []string{"lib-1"}, true},
		{"another file, shallow", false, swap, nil, false},
		{"another file, deep", true, swap, []string{"lib-1"}, true},
		{"narinfo of another path", false, func(t *testing.T, place blob.Store, ni map[string]NarInfo) {
			write(t, place, narinfoKey(ni["a-1"].Path), read(t, place, narinfoKey(ni["lib-1"].Path)))
		}, []string{"a-1"}, true},
		{"narinfo that isn't one", false, func(t *testing.T, place blob.Store, ni map[string]NarInfo) {
			write(t, place, narinfoKey(ni["a-1"].Path), "StorePath")
		}, []string{"a-1"}, true},
		{"endless narinfo", false, func(t *testing.T, place blob.Store, ni map[string]NarInfo) {
			write(t, place, narinfoKey(ni["a-1"].Path), strings.Repeat("x", maxNarInfoSize+1))
		}, []string{"a-1"}, true},
		{"narinfo without signature, though the manifest has it", false, func(t *testing.T, place blob.Store, ni map[string]NarInfo) {
			edit(t, place, ni["a-1"].Path, func(text string) string { return text[:strings.Index(text, "Sig:")] })
		}, []string{"a-1"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, root := sample(t)
			place := blob.NewMemory()
			c := New(place, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}})
			narinfos := map[string]NarInfo{}
			for _, ni := range push(t, c, s, root).Closure.Paths {
				narinfos[ni.Path.Name()] = ni
			}
			test.damage(t, place, narinfos)

			v := verify(t, c, test.deep, root)[0]
			if diff := cmp.Diff(test.want, damagedNames(v)); diff != "" {
				t.Errorf("damaged (-want +got)\n%s", diff)
			}
			if v.Paths != 4 && test.name != "no narinfo and no manifest" {
				t.Errorf("found %d paths, want 4", v.Paths)
			}
			if stale := v.Stale(); (len(stale) > 0) != test.mending {
				t.Fatalf("to delete: %q", stale)
			} else if !test.mending {
				return
			}
			for _, key := range v.Stale() {
				remove(t, place, key)
			}
			push(t, c, s, root)
			if v := verify(t, c, true, root)[0]; len(v.Damage) > 0 {
				t.Errorf("still damaged: %v", v.Damage)
			}
		})
	}
}

// swap replaces a file by one of the same size.
func swap(t *testing.T, place blob.Store, ni map[string]NarInfo) {
	file := []byte(read(t, place, ni["lib-1"].URL))
	file[len(file)-1] ^= 1
	write(t, place, ni["lib-1"].URL, string(file))
}

// Damage is told of each closure that has the path, and of no other.
func TestVerifyTellsClosuresApart(t *testing.T) {
	s, root := sample(t)
	c := New(blob.NewMemory(), Config{})
	other := s.add(t, "other-1", "needs nothing")
	push(t, c, s, root)
	pushed := push(t, c, s, other)
	remove(t, c.store, pushed.Closure.RootInfo().URL)
	got := map[string][]string{}
	for _, v := range verify(t, c, false, root, other) {
		got[v.Root.Name()] = damagedNames(v)
	}
	if diff := cmp.Diff(map[string][]string{"nixos-system-web-1": nil, "other-1": {"other-1"}}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A substituter's damage can't be mended here.
func TestVerifyUpstream(t *testing.T) {
	s, root := sample(t)
	there := named{blob.NewMemory(), "https://upstream.example.org"}
	theirs := push(t, New(there, Config{}), s, s.infos[0].Path)
	upstream := New(there, Config{})
	c := New(blob.NewMemory(), Config{Substituters: []*Cache{upstream}})
	if _, err := c.Push(t.Context(), PushRequest{Root: root, Infos: s.closure(root), Source: s, Upstreams: []*Cache{upstream}}); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, c, true, root)[0]; len(v.Damage) > 0 {
		t.Errorf("damage: %v", v.Damage)
	}
	remove(t, there, theirs.Closure.RootInfo().URL)
	v := verify(t, c, true, root)[0]
	if diff := cmp.Diff([]string{"lib-1"}, damagedNames(v)); diff != "" {
		t.Errorf("damaged (-want +got)\n%s", diff)
	}
	if stale := v.Stale(); stale != nil {
		t.Errorf("to delete: %q", stale)
	}
}

// A store that fails says nothing about what it holds: nobody is told to delete
// anything.
func TestVerifyTellsFailureFromDamage(t *testing.T) {
	s, root := sample(t)
	place := blob.NewMemory()
	push(t, New(place, Config{}), s, root)
	requests := &recorder{Store: place}
	verify(t, New(requests, Config{}), true, root)
	outage := errors.New("the server is on fire")
	for _, failing := range slices.Compact(slices.Sorted(slices.Values(requests.requests("")))) {
		c := New(&recorder{Store: place, fail: func(request string) error {
			if request == failing {
				return outage
			}
			return nil
		}}, Config{})
		if v, err := c.Verify(t.Context(), []nix.StorePath{root}, true, nil); !errors.Is(err, outage) {
			t.Errorf("%s failed: %v, %v", failing, v, err)
		}
	}
	for _, deep := range []bool{false, true} {
		c := New(failing{place, outage}, Config{})
		if v, err := c.Verify(t.Context(), []nix.StorePath{root}, deep, nil); !errors.Is(err, outage) {
			t.Errorf("deep %v: the files failed: %v, %v", deep, v, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if v, err := New(place, Config{}).Verify(ctx, []nix.StorePath{root}, true, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %v", v, err)
	}
}

// A failing store describes no files, and breaks off in the middle of them.
type failing struct {
	blob.Store
	err error
}

func (f failing) Stat(ctx context.Context, key string) (blob.Info, error) {
	return blob.Info{}, f.err
}

func (f failing) Get(ctx context.Context, key string, opts blob.GetOptions) (*blob.Object, error) {
	object, err := f.Store.Get(ctx, key, opts)
	if err == nil && strings.HasPrefix(key, "nar/") {
		object.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(object.Body, 20), broken{f.err}), object.Body}
	}
	return object, err
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

func verify(t *testing.T, c *Cache, deep bool, roots ...nix.StorePath) []Verification {
	t.Helper()
	v, err := c.Verify(t.Context(), roots, deep, new(Meter))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// damagedNames are the names of the damaged paths, sorted.
func damagedNames(v Verification) []string {
	names := map[string]bool{}
	for _, d := range v.Damage {
		names[d.Path.Name()] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func remove(t *testing.T, s blob.Store, key string) {
	t.Helper()
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
}
