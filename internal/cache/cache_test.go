package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	gonar "github.com/nix-community/go-nix/pkg/nar"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A store is a Source of made-up paths, for tests that look at what happens in
// the cache and not at what happens in a real store.
type store struct {
	nars  map[nix.StorePath][]byte
	infos []nix.PathInfo
	dumps sync.Map // paths that were dumped
}

// add makes a path with one file of that content.
func (s *store) add(t testing.TB, name, content string, refs ...nix.StorePath) nix.StorePath {
	t.Helper()
	sum := sha256.Sum256([]byte(name))
	path, err := nix.ParseBaseName(nixbase32.EncodeToString(sum[:20]) + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	s.set(t, path, content, refs...)
	return path
}

// set replaces the content of a path.
func (s *store) set(t testing.TB, path nix.StorePath, content string, refs ...nix.StorePath) {
	t.Helper()
	var b bytes.Buffer
	w, err := gonar.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteHeader(&gonar.Header{Path: "/", Type: gonar.TypeRegular, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if s.nars == nil {
		s.nars = map[nix.StorePath][]byte{}
	}
	s.nars[path] = b.Bytes()
	s.infos = slices.DeleteFunc(s.infos, func(i nix.PathInfo) bool { return i.Path == path })
	s.infos = append(s.infos, nix.PathInfo{
		Path:       path,
		NarHash:    sha256.Sum256(b.Bytes()),
		NarSize:    int64(b.Len()),
		References: nix.SortPaths(refs),
	})
}

// closure is what a local store would say the closure of root is.
func (s *store) closure(root nix.StorePath) []nix.PathInfo {
	byPath := map[nix.StorePath]nix.PathInfo{}
	for _, info := range s.infos {
		byPath[info.Path] = info
	}
	reached := map[nix.StorePath]nix.PathInfo{}
	var walk func(nix.StorePath)
	walk = func(path nix.StorePath) {
		if _, ok := reached[path]; ok {
			return
		}
		reached[path] = byPath[path]
		for _, ref := range byPath[path].References {
			walk(ref)
		}
	}
	walk(root)
	return slices.Collect(maps.Values(reached))
}

func (s *store) DumpNAR(ctx context.Context, path nix.StorePath, w io.Writer) error {
	s.dumps.Store(path, true)
	_, err := w.Write(s.nars[path])
	return err
}

// dumped lists the names of the paths whose NAR was read, and forgets them.
func (s *store) dumped() []string {
	var names []string
	s.dumps.Range(func(path, _ any) bool {
		names = append(names, path.(nix.StorePath).Name())
		s.dumps.Delete(path)
		return true
	})
	slices.Sort(names)
	return names
}

// Restore makes a store a Sink.
func (s *store) Restore(ctx context.Context, path nix.StorePath, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err == nil {
		s.dumps.Store(path, data)
	}
	return err
}

func newKey(t testing.TB, name string) nix.SecretKey {
	t.Helper()
	secret, _, err := signature.GenerateKeypair(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := nix.ParseSecretKey(secret.String())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sample is a small closure: root → {a, b}, a → {lib}, b → {lib, b}.
func sample(t testing.TB) (*store, nix.StorePath) {
	s := &store{}
	lib := s.add(t, "lib-1", "a library")
	a := s.add(t, "a-1", "refers to the library", lib)
	b := s.add(t, "b-1", strings.Repeat("large ", 2<<20))
	s.set(t, b, strings.Repeat("large ", 2<<20), lib, b)
	root := s.add(t, "nixos-system-web-1", "the system", a, b)
	return s, root
}

func push(t testing.TB, c *Cache, s *store, root nix.StorePath, previous ...nix.StorePath) *Pushed {
	t.Helper()
	req := PushRequest{Root: root, Infos: s.closure(root), Source: s}
	for _, p := range previous {
		closure, err := c.Closure(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		req.Previous = append(req.Previous, closure)
	}
	pushed, err := c.Push(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return pushed
}

func keys(t testing.TB, s blob.Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func read(t testing.TB, s blob.Store, key string) string {
	t.Helper()
	data, _, err := blob.ReadAll(t.Context(), s, key, 1<<30, blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t testing.TB, s blob.Store, key, text string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, strings.NewReader(text), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// edit replaces the narinfo of a path by what change makes of it.
func edit(t testing.TB, s blob.Store, path nix.StorePath, change func(string) string) {
	t.Helper()
	write(t, s, narinfoKey(path), change(read(t, s, narinfoKey(path))))
}

// A recorder notes the requests that a store gets.
type recorder struct {
	blob.Store
	mu   sync.Mutex
	reqs []string
	fail func(request string) error // may refuse one
}

func (r *recorder) note(verb, key string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	request := verb + " " + key
	r.reqs = append(r.reqs, request)
	if r.fail != nil {
		return r.fail(request)
	}
	return nil
}

func (r *recorder) Get(ctx context.Context, key string, opts blob.GetOptions) (*blob.Object, error) {
	if err := r.note("GET", key); err != nil {
		return nil, err
	}
	return r.Store.Get(ctx, key, opts)
}

func (r *recorder) Put(ctx context.Context, key string, body io.Reader, opts blob.PutOptions) (blob.Info, error) {
	if err := r.note("PUT", key); err != nil {
		return blob.Info{}, err
	}
	info, err := r.Store.Put(ctx, key, body, opts)
	if err == nil {
		r.note("HAS", key)
	}
	return info, err
}

func (r *recorder) Delete(ctx context.Context, key string) error {
	if err := r.note("DELETE", key); err != nil {
		return err
	}
	return r.Store.Delete(ctx, key)
}

// requests returns those with a prefix, and forgets all.
func (r *recorder) requests(prefix string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var some []string
	for _, req := range r.reqs {
		if strings.HasPrefix(req, prefix) {
			some = append(some, req)
		}
	}
	r.reqs = nil
	return some
}

func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error doesn't say %q: %v", word, err)
		}
	}
}

// lostAnswers does what it is asked to, and then reports an error.
type lostAnswers struct {
	blob.Store
	lose func(key string) bool
}

func (l *lostAnswers) Put(ctx context.Context, key string, body io.Reader, opts blob.PutOptions) (blob.Info, error) {
	info, err := l.Store.Put(ctx, key, body, opts)
	if err == nil && l.lose(key) {
		return blob.Info{}, errors.New("the connection was reset")
	}
	return info, err
}
