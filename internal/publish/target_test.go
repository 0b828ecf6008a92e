package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/changes"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// A place is a cache with systems in it, each of a version of nginx.
type place struct {
	t      *testing.T
	store  blob.Store
	config site.Config
	log    strings.Builder
}

func newPlace(t *testing.T) *place {
	secret, err := nix.ParseSecretKey(nixtest.NewKey(t, "cache.example.org-1").Secret)
	if err != nil {
		t.Fatal(err)
	}
	return &place{t: t, store: blob.NewMemory(), config: site.Config{
		Pointer: "web-1", RequireSigs: true,
		SigningKeys: []nix.SecretKey{secret}, PointerSigningKeys: []nix.SecretKey{secret},
		PublicKeys: nix.Keys{secret.Public()}, PointerPublicKeys: nix.Keys{secret.Public()},
	}}
}

// system pushes the system with a version of nginx.
func (f *place) system(version string) *cache.Closure {
	f.t.Helper()
	dir := files(f.t.TempDir())
	var infos []nix.PathInfo
	for _, name := range []string{"nginx-" + version, "nixos-system-web-1"} {
		hash := nix.Hash(sha256.Sum256([]byte(name + version)))
		path, err := nix.ParseBaseName(strings.TrimPrefix(hash.String(), "sha256:")[:32] + "-" + name)
		if err != nil {
			f.t.Fatal(err)
		}
		file := filepath.Join(string(dir), path.Base())
		if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
			f.t.Fatal(err)
		}
		var archive bytes.Buffer
		if err := nar.Dump(&archive, file); err != nil {
			f.t.Fatal(err)
		}
		info := nix.PathInfo{Path: path, NarHash: sha256.Sum256(archive.Bytes()), NarSize: int64(archive.Len())}
		for _, i := range infos {
			info.References = append(info.References, i.Path)
		}
		infos = append(infos, info)
	}
	pushed, err := f.open().Cache.Push(f.t.Context(), cache.PushRequest{Root: infos[1].Path, Infos: infos, Source: dir})
	if err != nil {
		f.t.Fatal(err)
	}
	return pushed.Closure
}

// open is the place as a site.
func (f *place) open() *site.Site {
	c := cache.New(f.store, cache.Config{PublicKeys: f.config.PublicKeys, RequireSigs: true, SigningKeys: f.config.SigningKeys})
	return &site.Site{Config: f.config, Store: f.store, Cache: c}
}

// read is the pointer as a target, which was read.
func (f *place) read() *Target {
	f.t.Helper()
	target := NewTarget(f.open(), f.config.Pointer)
	if err := target.Read(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return target
}

// files are a directory of store paths by their names.
type files string

func (dir files) DumpNAR(_ context.Context, path nix.StorePath, w io.Writer) error {
	return nar.Dump(w, filepath.Join(string(dir), path.Base()))
}

// move moves a pointer as a put would, and returns what the generation that it
// leads to says of changes.
func (f *place) move(target *Target, closure *cache.Closure, ifGeneration *uint64) (string, error) {
	f.log.Reset()
	outcome, _, err := target.Move(f.t.Context(), console.New(&f.log, func(string) string { return "" }, nil), pointer.Proposal{
		Path: closure.Root, System: "x86_64-linux", NarHash: closure.RootInfo().NarHash, IfGeneration: ifGeneration,
	}, closure)
	return outcome.Generation.Details.Changes, err
}

func (f *place) mustMove(target *Target, closure *cache.Closure) string {
	f.t.Helper()
	changed, err := f.move(target, closure, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return changed
}

// changes are what the cache says that each generation has changed.
func (f *place) changes() []string {
	f.t.Helper()
	var summaries []string
	for number := uint64(1); ; number++ {
		c, err := changes.Read(f.t.Context(), f.store, "web-1", number)
		if errors.Is(err, blob.ErrNotExist) {
			return summaries
		}
		if err != nil {
			f.t.Fatal(err)
		}
		summaries = append(summaries, c.Summary())
	}
}

func TestMoveTellsWhatChanges(t *testing.T) {
	f := newPlace(t)
	for _, step := range []struct{ version, want string }{
		{"1.28.0", ""},
		{"1.28.1", "nginx: 1.28.0 → 1.28.1"},
		{"1.28.1", "nginx: 1.28.0 → 1.28.1"}, // no move
		{"1.28.0", "nginx: 1.28.1 → 1.28.0"},
	} {
		if got := f.mustMove(f.read(), f.system(step.version)); got != step.want {
			t.Errorf("to %s: got %q, want %q", step.version, got, step.want)
		}
	}
	if diff := cmp.Diff([]string{"", "nginx: 1.28.0 → 1.28.1", "nginx: 1.28.1 → 1.28.0"}, f.changes()); diff != "" {
		t.Errorf("in the cache (-want +got)\n%s", diff)
	}
}

// A put that moves nothing is four requests, with the three that look where the
// pointer is and leads to. They are sorted here: some are made side by side.
func TestMoveAsksLittle(t *testing.T) {
	f := newPlace(t)
	one, two := f.system("1"), f.system("2")
	f.mustMove(f.read(), one)
	rec := &recorder{Store: f.store}
	f.store = rec
	for _, step := range []struct {
		to   *cache.Closure
		want []string
	}{
		{one, []string{"HEAD changes/web-1/1.json"}},
		{two, []string{
			"GET pointers/web-1.json", "PUT changes/web-1/2.json", "PUT pointers/web-1", "PUT pointers/web-1.json",
		}},
	} {
		target := f.read()
		target.Previous(t.Context())
		if diff := cmp.Diff([]string{"GET closures/" + one.Root.HashPart(), "GET pointers/web-1", "GET pointers/web-1.json"}, rec.sorted()); diff != "" {
			t.Errorf("looking (-want +got)\n%s", diff)
		}
		f.mustMove(target, step.to)
		if diff := cmp.Diff(step.want, rec.sorted()); diff != "" {
			t.Errorf("moving (-want +got)\n%s", diff)
		}
	}
}

// A recorder notes the requests that a store gets.
type recorder struct {
	blob.Store
	mu       sync.Mutex
	requests []string
}

func (r *recorder) note(request string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, request)
}

// sorted returns the requests, and forgets them.
func (r *recorder) sorted() []string {
	requests := r.requests
	r.requests = nil
	slices.Sort(requests)
	return requests
}

func (r *recorder) Get(ctx context.Context, key string, opts blob.GetOptions) (*blob.Object, error) {
	r.note("GET " + key)
	return r.Store.Get(ctx, key, opts)
}

func (r *recorder) Stat(ctx context.Context, key string) (blob.Info, error) {
	r.note("HEAD " + key)
	return r.Store.Stat(ctx, key)
}

func (r *recorder) Put(ctx context.Context, key string, body io.Reader, opts blob.PutOptions) (blob.Info, error) {
	r.note("PUT " + key)
	return r.Store.Put(ctx, key, body, opts)
}

// What is signed is compared with the generation that is replaced, also if that
// is another one than when the put began.
func TestMoveAfterOthers(t *testing.T) {
	f := newPlace(t)
	one, two, three := f.system("1"), f.system("2"), f.system("3")
	f.mustMove(f.read(), one)
	slow, stubborn, late := f.read(), f.read(), f.read()
	f.mustMove(f.read(), two)
	if got, want := f.mustMove(slow, three), "nginx: 2 → 3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := f.mustMove(late, three), "nginx: 2 → 3"; got != want {
		t.Errorf("who came late to the same got %q, want %q", got, want)
	}
	var moved *pointer.MovedError
	if _, err := f.move(stubborn, f.system("4"), new(uint64(1))); !errors.As(err, &moved) {
		t.Errorf("who wanted to replace generation 1: got %v, want a MovedError", err)
	}
	if diff := cmp.Diff([]string{"", "nginx: 1 → 2", "nginx: 2 → 3"}, f.changes()); diff != "" {
		t.Errorf("in the cache (-want +got)\n%s", diff)
	}
}

// readOnlyBelow is a store that refuses to write some objects.
type readOnlyBelow struct {
	blob.Store
	prefix string
}

func (s readOnlyBelow) Put(ctx context.Context, key string, body io.Reader, opts blob.PutOptions) (blob.Info, error) {
	if strings.HasPrefix(key, s.prefix) {
		return blob.Info{}, blob.ErrPermission
	}
	return s.Store.Put(ctx, key, body, opts)
}

// A put that was cut short before it wrote what changed is finished by the next
// one. Not to be allowed to write it is no reason to fail.
func TestMoveFinishesWhatIsMissing(t *testing.T) {
	f := newPlace(t)
	one, two := f.system("1"), f.system("2")
	whole := f.store
	f.store = readOnlyBelow{whole, "changes/"}
	f.mustMove(f.read(), one)
	if got, want := f.mustMove(f.read(), two), "nginx: 1 → 2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !strings.HasPrefix(f.log.String(), "warning: ") || f.changes() != nil {
		t.Errorf("without a warning there is %q:\n%s", f.changes(), &f.log)
	}

	f.store = whole
	f.mustMove(f.read(), two)
	c, err := changes.Read(t.Context(), whole, "web-1", 2)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Summary(), "nginx: 1 → 2"; got != want || f.log.Len() > 0 {
		t.Errorf("mended to %q, want %q:\n%s", got, want, &f.log)
	}
}

// If the closure before is damaged, what changes can't be told; that is said,
// and no more.
func TestMoveFromWhatIsGone(t *testing.T) {
	f := newPlace(t)
	one, two := f.system("1"), f.system("2")
	f.mustMove(f.read(), one)
	for info, err := range f.store.List(t.Context(), "") {
		if err == nil && strings.Contains(info.Key, one.Root.HashPart()) {
			err = f.store.Delete(t.Context(), info.Key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := f.mustMove(f.read(), two); got != "" {
		t.Errorf("it changes %q", got)
	}
	if want := "warning: what generation 2 changes can't be told: "; !strings.HasPrefix(f.log.String(), want) {
		t.Errorf("want a %q, got\n%s", want, &f.log)
	}
	if diff := cmp.Diff([]string{""}, f.changes()); diff != "" {
		t.Errorf("in the cache (-want +got)\n%s", diff)
	}
}
