package substituter_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/substituter"
)

// built is a closure in a local store of a real Nix.
type built struct {
	store *nixcmd.Store
	root  nix.StorePath
	infos []nix.PathInfo
}

func build(t *testing.T, n *nixtest.Nix, attribute string) built {
	t.Helper()
	theirs := n.NewStore(t)
	theirs.Setenv(t)
	store, err := nixcmd.Open(t.Context(), nixcmd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	root := theirs.Build(t, filepath.Join(nixtest.Sample(t), "config"), attribute)
	return built{store, root, theirs.Closure(t, root)}
}

// push makes a cache in a place hold the closure.
func (b built) push(t *testing.T, place blob.Store, keys ...nix.SecretKey) {
	t.Helper()
	c := cache.New(place, cache.Config{RequireSigs: len(keys) > 0, SigningKeys: keys})
	if _, err := c.Push(t.Context(), cache.PushRequest{Root: b.root, Infos: b.infos, Source: b.store}); err != nil {
		t.Fatal(err)
	}
}

// serve serves caches until the test ends, and collects what it warns of.
func serve(t *testing.T, caches ...*cache.Cache) (*substituter.Server, *warnings) {
	t.Helper()
	w := new(warnings)
	s, err := substituter.Serve(t.Context(), w.add, caches...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, w
}

type warnings struct {
	mu   sync.Mutex
	text string
}

func (w *warnings) add(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text += err.Error() + "\n"
}

func (w *warnings) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text
}

// realise lets an empty store of a real Nix take the path from what is served,
// and nothing else.
func realise(t *testing.T, n *nixtest.Nix, s *substituter.Server, root nix.StorePath) (*nixtest.Store, error) {
	t.Helper()
	store := n.NewStore(t)
	var keys []string
	for _, key := range s.PublicKeys() {
		keys = append(keys, key.String())
	}
	store.Configure(t, "substituters = "+strings.Join(s.URLs(), " ")+"\ntrusted-public-keys = "+strings.Join(keys, " ")+"\ndownload-attempts = 1\n")
	_, err := store.Try("nix-store", "--realise", root.String())
	return store, err
}

func newKey(t *testing.T, name string) nix.SecretKey {
	t.Helper()
	key, err := nix.ParseSecretKey(nixtest.NewKey(t, name).Secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func reading(place blob.Store, keys ...nix.SecretKey) *cache.Cache {
	var public nix.Keys
	for _, key := range keys {
		public = append(public, key.Public())
	}
	return cache.New(place, cache.Config{RequireSigs: len(keys) > 0, PublicKeys: public})
}

// Nix takes a closure from each kind of cache that this project reads, those
// that it couldn't read itself included.
func TestNixSubstitutes(t *testing.T) { nixtest.Each(t, testNixSubstitutes) }

func testNixSubstitutes(t *testing.T, n *nixtest.Nix) {
	b, key := build(t, n, "web-1"), newKey(t, "ours-1")
	server := s3test.Versitygw(t)
	bucket := server.Bucket(t)
	config := blob.Config{AccessKeyID: server.AccessKeyID, SecretAccessKey: server.SecretAccessKey}
	open := func(text string, config blob.Config) blob.Store {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		store, err := blob.Open(t.Context(), u, config)
		if err != nil {
			t.Fatal(err)
		}
		return store
	}
	s3 := open("s3://"+bucket+"/prefix?region=us-east-1&endpoint="+url.QueryEscape(server.URL), config)
	b.push(t, s3, key)
	directory := t.TempDir()
	b.push(t, blob.NewDirectory(directory), key)
	files := http.FileServer(http.Dir(directory))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer web.Close()

	for name, place := range map[string]blob.Store{
		"s3": s3, "directory": blob.NewDirectory(directory), "web": open(web.URL, blob.Config{BearerToken: "s3cret"}),
	} {
		t.Run(name, func(t *testing.T) {
			s, warned := serve(t, reading(place, key))
			store, err := realise(t, n, s, b.root)
			if err != nil {
				t.Fatal(err)
			}
			store.Run(t, "nix-store", "--verify", "--check-contents")
			if got := len(store.Closure(t, b.root)); got != len(b.infos) {
				t.Errorf("Nix has %d paths, want %d", got, len(b.infos))
			}
			if warned.String() != "" {
				t.Errorf("it warns:\n%s", warned)
			}
		})
	}
}

// Each cache is judged by its own keys: one's key doesn't vouch for what lies in
// the other, although Nix is told both.
func TestEachCacheHasItsKeys(t *testing.T) { nixtest.Each(t, testEachCacheHasItsKeys) }

func testEachCacheHasItsKeys(t *testing.T, n *nixtest.Nix) {
	b, ours, theirs := build(t, n, "web-1"), newKey(t, "ours-1"), newKey(t, "theirs-1")
	empty, signed, unsigned := blob.NewMemory(), blob.NewMemory(), blob.NewMemory()
	b.push(t, signed, theirs)
	b.push(t, unsigned)

	s, warned := serve(t, reading(empty, theirs), reading(signed, ours))
	if _, err := realise(t, n, s, b.root); err == nil || !strings.Contains(warned.String(), "not used: "+b.root.String()) {
		t.Errorf("signed by the other cache's key: got %v, and warnings:\n%s", err, warned)
	}
	s, _ = serve(t, reading(empty, ours), reading(signed, theirs))
	if _, err := realise(t, n, s, b.root); err != nil {
		t.Errorf("in the second cache, by its own key: %v", err)
	}
	s, _ = serve(t, reading(unsigned, ours))
	if _, err := realise(t, n, s, b.root); err == nil {
		t.Error("Nix took what nobody signed")
	}
	s, _ = serve(t, reading(empty, ours), reading(unsigned))
	if _, err := realise(t, n, s, b.root); err != nil {
		t.Errorf("unsigned, with require_sigs: false: %v", err)
	}
}

// A file that isn't what its narinfo says doesn't reach Nix as one that is.
func TestDamagedNAR(t *testing.T) {
	n := nixtest.Current(t)
	b, key := build(t, n, "web-1"), newKey(t, "ours-1")
	place := blob.NewMemory()
	b.push(t, place, key)
	c := reading(place, key)
	ni, err := c.Find(t.Context(), b.root.HashPart())
	if err != nil {
		t.Fatal(err)
	}
	data, _, err := blob.ReadAll(t.Context(), place, ni.URL, 1<<30, blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if _, err := place.Put(t.Context(), ni.URL, strings.NewReader(string(data)), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	s, warned := serve(t, c)
	for range 2 {
		if _, err := realise(t, n, s, b.root); err == nil {
			t.Error("Nix took it")
		}
	}
	if !strings.Contains(warned.String(), b.root.String()) {
		t.Errorf("no warning names it:\n%s", warned)
	}
	if status, body := get(t, http.MethodGet, s.URLs()[0]+"/nar/"+b.root.HashPart()+".nar"); int64(len(body)) == ni.NarSize {
		t.Errorf("it was served whole, with status %d", status)
	}
}

// Nothing but nix-cache-info, narinfos and NARs is there, for nobody who doesn't
// know the path, and nothing can be written.
func TestNothingElseIsServed(t *testing.T) {
	n := nixtest.Current(t)
	b, key := build(t, n, "web-1"), newKey(t, "ours-1")
	place := blob.NewMemory()
	b.push(t, place, key)
	if _, err := place.Put(t.Context(), "pointers/web-1", strings.NewReader("x"), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	s, _ := serve(t, reading(place, key))
	base := s.URLs()[0]
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	narinfo := "/" + b.root.HashPart() + ".narinfo"
	for _, test := range []struct {
		method, url string
		want        int
	}{
		{http.MethodGet, base + narinfo, http.StatusOK},
		{http.MethodHead, base + narinfo, http.StatusOK},
		{http.MethodGet, base + "/nix-cache-info", http.StatusOK},
		{http.MethodHead, base + "/nar/" + b.root.HashPart() + ".nar", http.StatusOK},
		{http.MethodGet, base + "/pointers/web-1", http.StatusNotFound},
		{http.MethodGet, base + "/closures/" + b.root.HashPart(), http.StatusNotFound},
		{http.MethodGet, base + "/nar/../pointers/web-1", http.StatusNotFound},
		{http.MethodGet, base + "/..%2fpointers%2fweb-1.narinfo", http.StatusNotFound},
		{http.MethodGet, base + "/", http.StatusNotFound},
		{http.MethodGet, "http://" + u.Host + "/0" + narinfo, http.StatusNotFound},
		{http.MethodGet, "http://" + u.Host + "/", http.StatusNotFound},
		{http.MethodPut, base + narinfo, http.StatusMethodNotAllowed},
		{http.MethodDelete, base + narinfo, http.StatusMethodNotAllowed},
	} {
		if got, _ := get(t, test.method, test.url); got != test.want {
			t.Errorf("%s %s: got %d, want %d", test.method, strings.TrimPrefix(test.url, base), got, test.want)
		}
	}
	if !strings.HasPrefix(u.Host, "127.0.0.1:") || len(u.Path) < 20 {
		t.Errorf("anybody may find %s", base)
	}
}

// A store that fails is told to Nix as it is, and Nix doesn't begin again.
func TestFailingStore(t *testing.T) {
	n := nixtest.Current(t)
	b, key := build(t, n, "web-1"), newKey(t, "ours-1")
	place := &failing{Store: blob.NewMemory()}
	b.push(t, place, key)
	place.fails = true
	s, _ := serve(t, reading(place, key))
	_, err := realise(t, n, s, b.root)
	if err == nil || !strings.Contains(err.Error(), "the lights are out") {
		t.Errorf("got %v", err)
	}
	if place.asked > 2 {
		t.Errorf("it was asked %d times", place.asked)
	}
}

// An optional cache that goes away, or has lost its files, when Nix has been told what
// it has is done without: Nix builds.
func TestOptionalCacheFails(t *testing.T) { nixtest.Each(t, testOptionalCacheFails) }

func testOptionalCacheFails(t *testing.T, n *nixtest.Nix) {
	b, key := build(t, n, "web-1"), newKey(t, "ours-1")
	for name, test := range map[string]struct {
		lost, gone string
		want       string // in the warning, if there is to be one
	}{
		"goes away":       {"nar/", "", "going on without memory:"},
		"has lost it all": {"", "nar/", ": file does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			place := &lame{Store: blob.NewMemory()}
			b.push(t, place, key)
			place.lost, place.gone = test.lost, test.gone
			w := new(warnings)
			c := cache.New(place, cache.Config{RequireSigs: true, PublicKeys: nix.Keys{key.Public()}, Optional: true, Warn: w.add})
			s, served := serve(t, c)
			store := n.NewStore(t)
			store.Configure(t, "substituters = "+s.URLs()[0]+"\ntrusted-public-keys = "+key.Public().String()+"\n")
			if got := store.Build(t, filepath.Join(nixtest.Sample(t), "config"), "web-1"); got != b.root {
				t.Errorf("built %s, want %s", got, b.root)
			}
			if place.asked.Load() == 0 {
				t.Error("it was never asked for a NAR")
			}
			if all := w.String() + served.String(); !strings.Contains(all, test.want) || test.want == "" && all != "" {
				t.Errorf("warned of:\n%s", all)
			}
		})
	}
}

// A lame store fails for objects whose keys begin in one way, and lacks those
// whose keys begin in another.
type lame struct {
	blob.Store
	lost, gone string
	asked      atomic.Int64 // for NARs
}

func (l *lame) Get(ctx context.Context, key string, opts blob.GetOptions) (*blob.Object, error) {
	if strings.HasPrefix(key, "nar/") {
		l.asked.Add(1)
	}
	switch {
	case l.lost != "" && strings.HasPrefix(key, l.lost):
		return nil, errors.New("the lights are out")
	case l.gone != "" && strings.HasPrefix(key, l.gone):
		return nil, blob.ErrNotExist
	}
	return l.Store.Get(ctx, key, opts)
}

type failing struct {
	blob.Store
	fails bool
	asked int
}

func (f *failing) Get(ctx context.Context, key string, opts blob.GetOptions) (*blob.Object, error) {
	if f.fails {
		f.asked++
		return nil, errors.New("the lights are out")
	}
	return f.Store.Get(ctx, key, opts)
}

func get(t *testing.T, method, url string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer answer.Body.Close()
	body, _ = io.ReadAll(answer.Body)
	return answer.StatusCode, body
}

// What is known of a closure is not asked for again; and if a file is missing that
// should be there, somebody is told.
func TestKnow(t *testing.T) {
	n := nixtest.Current(t)
	key, place := newKey(t, "cache.example.org-1"), blob.NewMemory()
	b := build(t, n, "web-1")
	b.push(t, place, key)
	c := reading(place, key)
	closure, err := c.Closure(t.Context(), b.root)
	if err != nil {
		t.Fatal(err)
	}
	for i := range closure.Paths { // so that only what is known can be served
		if err := place.Delete(t.Context(), closure.Paths[i].Path.HashPart()+".narinfo"); err != nil {
			t.Fatal(err)
		}
	}
	s, w := serve(t, c)
	if _, err := realise(t, n, s, b.root); err == nil {
		t.Fatal("narinfos are served that are not there")
	}
	s.Know(closure)
	if _, err := realise(t, n, s, b.root); err != nil {
		t.Fatal(err)
	}
	if w.String() != "" {
		t.Errorf("it has warned of %s", w)
	}
	if err := place.Delete(t.Context(), closure.RootInfo().URL); err != nil {
		t.Fatal(err)
	}
	if _, err := realise(t, n, s, b.root); err == nil || !strings.Contains(w.String(), closure.RootInfo().URL) {
		t.Errorf("want a warning about %s, got %q and %v", closure.RootInfo().URL, w, err)
	}
}
