package cache

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Promise 5: each attack on a cache whose attacker can write to the bucket but
// has no key.
func TestFetchIsNotFooled(t *testing.T) {
	key, stranger := newKey(t, "test-1"), newKey(t, "stranger-1")
	config := Config{RequireSigs: true, PublicKeys: nix.Keys{key.Public()}}
	drop := func(prefix string) func(string) string { return replaceLine(prefix, "") }
	zst := func(data []byte) string {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(w.EncodeAll(data, nil))
	}

	for _, attack := range []struct {
		name   string
		attack func(t *testing.T, place blob.Store, s *store, victim nix.StorePath)
		want   []string // words of the error; none: no error
	}{
		{"nothing", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {}, nil},
		{"endless NAR", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, drop("File"))
			write(t, place, narOf(t, place, victim), zst(append(bytes.Clone(s.nars[victim]), make([]byte, 1<<20)...)))
		}, []string{"NarSize", "more"}},
		{"endless file", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, drop("File"))
			url := narOf(t, place, victim)
			write(t, place, url, read(t, place, url)+strings.Repeat("\x50\x2a\x4d\x18\x00\x00\x00\x00", 1<<18)) // empty skippable frames
		}, []string{"longer than"}},
		{"truncated file", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			url := narOf(t, place, victim)
			file := read(t, place, url)
			write(t, place, url, file[:len(file)-1])
		}, []string{"unexpected EOF"}},
		{"truncated file, size adapted", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, drop("File"))
			url := narOf(t, place, victim)
			file := read(t, place, url)
			write(t, place, url, file[:len(file)-1])
		}, []string{"unpacking", "unexpected EOF"}},
		{"trailing bytes", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, drop("File"))
			url := narOf(t, place, victim)
			write(t, place, url, read(t, place, url)+"junk")
		}, []string{"unpacking"}},
		{"another path's NAR", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			other := s.infos[1].Path
			write(t, place, narOf(t, place, victim), read(t, place, narOf(t, place, other)))
		}, []string{"NarSize"}},
		{"another NAR of the same size", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			nar := bytes.Replace(s.nars[victim], []byte("a library"), []byte("a Library"), 1)
			edit(t, place, victim, drop("File"))
			write(t, place, narOf(t, place, victim), zst(nar))
		}, []string{"NarHash"}},
		{"URL out of the cache", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, replaceLine("URL:", "URL: ../../etc/shadow\n"))
		}, []string{"leads out of the cache"}},
		{"URL of another server", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, replaceLine("URL:", "URL: http://169.254.169.254/x\n"))
		}, []string{"leads out of the cache"}},
		{"signature by a stranger", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			ni, _, err := New(place, config).lookup(t.Context(), victim)
			if err != nil {
				t.Fatal(err)
			}
			edit(t, place, victim, replaceLine("Sig:", "Sig: "+stranger.Sign(ni.Fingerprint()).String()+"\n"))
		}, []string{"it is signed by stranger-1", "trusted: test-1"}},
		{"signature of other references", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, replaceLine("References:", "References: "+s.infos[1].Path.Base()+"\n"))
		}, []string{"its signature by test-1 doesn't match"}},
		{"no signature", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, drop("Sig:"))
		}, []string{"it isn't signed at all"}},
		{"made-up content address", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, replaceLine("Sig:", "CA: fixed:r:sha256:"+strings.Repeat("0", 52)+"\n"))
		}, []string{"no signature by a trusted key", "content address"}},
		{"narinfo of another path", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			write(t, place, narinfoKey(victim), read(t, place, narinfoKey(s.infos[1].Path)))
		}, []string{"it describes"}},
		{"endless narinfo", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, func(text string) string { return text + strings.Repeat("Pad: x\n", 1<<18) })
		}, []string{"larger than"}},
		{"unknown compression", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, replaceLine("Compression:", "Compression: rar\n"))
		}, []string{`not known: "rar"`}},
		{"missing narinfo", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			place.Delete(t.Context(), narinfoKey(victim))
		}, []string{"not whole", "refers to"}},
		{"missing file", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			place.Delete(t.Context(), narOf(t, place, victim))
		}, []string{"does not exist"}},
		{"gzip, as other pushers write", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			w.Write(s.nars[victim])
			w.Close()
			edit(t, place, victim, drop("File"))
			edit(t, place, victim, replaceLine("Compression:", "Compression: gzip\n"))
			write(t, place, narOf(t, place, victim), b.String())
		}, nil},
		{"unknown keys, as Nix ignores", func(t *testing.T, place blob.Store, s *store, victim nix.StorePath) {
			edit(t, place, victim, func(text string) string { return "Future: a: b\n" + text + "Sig: future:form\n" })
		}, nil},
	} {
		t.Run(attack.name, func(t *testing.T) {
			s, root := sample(t)
			place := blob.NewMemory()
			push(t, New(place, Config{SigningKeys: []nix.SecretKey{key}}), s, root)
			place.Delete(t.Context(), manifestKey(root))
			attack.attack(t, place, s, s.infos[0].Path)

			run := func(fetch func(*Cache, *Closure) error) error {
				c := New(place, config)
				closure, err := c.Closure(t.Context(), root)
				if err != nil {
					return err
				}
				return fetch(c, closure)
			}
			fetched := run(func(c *Cache, closure *Closure) error { return c.Fetch(t.Context(), closure, &store{}, nil) })
			inOrder := run(func(c *Cache, closure *Closure) error {
				return c.FetchInOrder(t.Context(), closure, &store{}, nil)
			})
			dst := blob.NewMemory()
			copied := run(func(c *Cache, closure *Closure) error { return c.Copy(t.Context(), closure, dst, nil) })
			for _, err := range []error{fetched, inOrder, copied} {
				if attack.want == nil && err != nil {
					t.Error(err)
				} else if attack.want != nil {
					wantError(t, err, attack.want...)
				}
			}
			if copied != nil {
				if got := keys(t, dst, "closures/"); got != nil {
					t.Errorf("the failed copy looks whole: %v", got)
				}
			} else {
				checkValid(t, dst)
			}
		})
	}
}

// The same NAR in another file does no harm to who unpacks it, and who hands the file
// on describes it anew. Who says that it is sound, looks at it.
func TestSameNARInAnotherFile(t *testing.T) {
	s, root := sample(t)
	place := blob.NewMemory()
	c := New(place, Config{})
	push(t, c, s, root)
	victim := s.infos[0].Path
	ni, _, err := c.lookup(t.Context(), victim)
	if err != nil {
		t.Fatal(err)
	}
	const emptyFrame = "\x50\x2a\x4d\x18\x00\x00\x00\x00" // skippable
	write(t, place, ni.URL, read(t, place, ni.URL)+emptyFrame)
	edit(t, place, victim, func(text string) string {
		size := "\nFileSize: %d\n"
		return strings.Replace(text, fmt.Sprintf(size, ni.FileSize), fmt.Sprintf(size, ni.FileSize+int64(len(emptyFrame))), 1)
	})
	remove(t, place, manifestKey(root))
	closure, err := c.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}

	fetched := &store{}
	if err := c.Fetch(t.Context(), closure, fetched, nil); err != nil {
		t.Error(err)
	} else if nar, _ := fetched.dumps.Load(victim); !bytes.Equal(nar.([]byte), s.nars[victim]) {
		t.Error("fetched another NAR")
	}
	copied := blob.NewMemory()
	if err := c.Copy(t.Context(), closure, copied, nil); err != nil {
		t.Error(err)
	}
	checkValid(t, copied)
	if damage := verify(t, c, true, root)[0].Damage; len(damage) != 1 {
		t.Errorf("found damaged: %v", damage)
	} else {
		wantError(t, damage[0].Err, "FileHash")
	}
}

// A manifest is a hint: whatever is wrong with it costs requests, no more.
func TestManifestIsOnlyAHint(t *testing.T) {
	key := newKey(t, "test-1")
	for name, tamper := range map[string]func(string) string{
		"garbage":            func(string) string { return "\x00\xff garbage" },
		"empty":              func(string) string { return "" },
		"truncated":          func(text string) string { return text[:len(text)/2] },
		"a path missing":     func(text string) string { return text[strings.Index(text, "\n\n")+2:] },
		"unsigned":           func(text string) string { return strings.ReplaceAll(text, "Sig: test-1:", "Sig: test-1:AAAA") },
		"another NAR's hash": func(text string) string { return strings.Replace(text, "NarSize: 1", "NarSize: 2", 1) },
		"too large":          func(text string) string { return text + strings.Repeat("\n", maxManifestSize) },
	} {
		t.Run(name, func(t *testing.T) {
			s, root := sample(t)
			place := blob.NewMemory()
			push(t, New(place, Config{SigningKeys: []nix.SecretKey{key}}), s, root)
			write(t, place, manifestKey(root), tamper(read(t, place, manifestKey(root))))
			c := New(place, Config{RequireSigs: true, PublicKeys: nix.Keys{key.Public()}})
			closure, err := c.Closure(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Fetch(t.Context(), closure, &store{}, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFetchRequests(t *testing.T) {
	s, root := sample(t)
	rec := &recorder{Store: blob.NewMemory()}
	push(t, New(rec, Config{}), s, root)
	rec.requests("")
	c := New(rec, Config{})
	closure, err := c.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Fetch(t.Context(), closure, &store{}, nil); err != nil {
		t.Fatal(err)
	}
	if got := rec.requests(""); len(got) != 1+len(closure.Paths) {
		t.Errorf("%d requests for a manifest and %d NARs:\n%s", len(got), len(closure.Paths), strings.Join(got, "\n"))
	}
}

func TestClosureOfUnknownRoot(t *testing.T) {
	_, root := sample(t)
	_, err := New(blob.NewMemory(), Config{}).Closure(t.Context(), root)
	wantError(t, err, root.String()+" is not in")
}

func TestCycleIsRefused(t *testing.T) {
	s := &store{}
	a := s.add(t, "a", "")
	b := s.add(t, "b", "", a)
	place := blob.NewMemory()
	push(t, New(place, Config{}), s, b)
	place.Delete(t.Context(), manifestKey(b))
	edit(t, place, a, func(text string) string {
		return strings.Replace(text, "References: ", "References: "+b.Base(), 1)
	})
	_, err := New(place, Config{}).Closure(t.Context(), b)
	wantError(t, err, "refer to each other")
}

func TestVerifyErrorIsTyped(t *testing.T) {
	s, root := sample(t)
	place := blob.NewMemory()
	push(t, New(place, Config{}), s, root)
	ni, _, err := New(place, Config{}).lookup(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	file := []byte(read(t, place, ni.URL))
	file[len(file)-1] ^= 1
	write(t, place, ni.URL, string(file))
	err = New(place, Config{}).verifyNAR(t.Context(), &ni, io.Discard, &Meter{})
	var verify *VerifyError
	if errors.As(err, &verify) {
		if diff := cmp.Diff(root, verify.Path, cmp.AllowUnexported(root)); diff != "" {
			t.Error(diff)
		}
		if hints := hint.Of(err); len(hints) == 0 {
			t.Error("no hint")
		}
	} else if err == nil {
		t.Error("no error")
	}
}

// Others have chosen the URLs of a cache. A copy has names of our own, so that two
// paths with one URL, from which a server gives other bytes each time, or a URL of
// something else in the cache, can't make us write over anything.
func TestCopyChoosesItsNames(t *testing.T) {
	key := newKey(t, "test-1")
	for name, url := range map[string]string{
		"that of another path":    "",
		"that of a small file":    "nix-cache-info",
		"that of a narinfo":       "0c4011109d4m7v9k0bxzjnrk8l083gz0.narinfo",
		"that of a manifest":      "closures/0c4011109d4m7v9k0bxzjnrk8l083gz0",
		"one with a query":        "nar/x.nar?hash=y",
		"one with a name of ours": "nar/zfbccj010053cdm3cvrjssmnkxgmxk5q.nar.zst",
	} {
		t.Run(name, func(t *testing.T) {
			s, root := sample(t)
			place := blob.NewMemory()
			push(t, New(place, Config{SigningKeys: []nix.SecretKey{key}}), s, root)
			victim, other := s.infos[1].Path, s.infos[0].Path
			remove(t, place, manifestKey(root))
			server := &switching{Store: place, names: map[string][]string{}}
			if url == "" {
				url = narOf(t, place, other)
				server.names[url] = []string{url, narOf(t, place, victim)}
			} else {
				server.names[url] = []string{narOf(t, place, victim)}
			}
			edit(t, place, victim, replaceLine("URL:", "URL: "+url+"\n"))

			c := New(server, Config{RequireSigs: true, PublicKeys: nix.Keys{key.Public()}})
			closure, err := c.Closure(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			dst := blob.NewMemory()
			if err := c.Copy(t.Context(), closure, dst, nil); err != nil && name != "that of another path" {
				t.Fatal(err)
			} else if err != nil {
				return // the two came in another order
			}
			checkValid(t, dst)
			got := new(store)
			copied, err := New(dst, Config{RequireSigs: true, PublicKeys: nix.Keys{key.Public()}}).Closure(t.Context(), root)
			if err == nil {
				err = New(dst, Config{}).Fetch(t.Context(), copied, got, nil)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// replaceLine returns what replaces the lines of a text that begin so.
func replaceLine(prefix, line string) func(string) string {
	return func(text string) string {
		var b strings.Builder
		for l := range strings.Lines(text) {
			if strings.HasPrefix(l, prefix) {
				l = line
			}
			b.WriteString(l)
		}
		return b.String()
	}
}

// narOf is the key of the file of a path.
func narOf(t *testing.T, place blob.Store, path nix.StorePath) string {
	t.Helper()
	ni, err := ParseNarInfo(read(t, place, narinfoKey(path)))
	if err != nil {
		t.Fatal(err)
	}
	return ni.URL
}

// A switching store gives, for some keys, the object of another key, and of the next
// one each time.
type switching struct {
	blob.Store
	mu    sync.Mutex
	names map[string][]string
}

func (s *switching) Get(ctx context.Context, key string, opts blob.GetOptions) (*blob.Object, error) {
	s.mu.Lock()
	if names := s.names[key]; len(names) > 0 {
		key = names[0]
		if len(names) > 1 {
			s.names[key] = names[1:]
		}
	}
	s.mu.Unlock()
	return s.Store.Get(ctx, key, opts)
}
