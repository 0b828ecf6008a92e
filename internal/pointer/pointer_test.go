package pointer

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// key is a secret key of that name, the same in each run; number tells keys of
// one name apart.
func key(name string, number byte) nix.SecretKey {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	seed[len(seed)-1] = number
	secret, err := nix.ParseSecretKey(name + ":" + base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed(seed)))
	if err != nil {
		panic(err)
	}
	return secret
}

var (
	ours      = key("cache.example.org-1", 1)
	next      = key("cache.example.org-2", 1)
	strangers = key("stranger-1", 1)
	namesake  = key("cache.example.org-1", 2) // a stranger's key under our name
)

func public(keys ...nix.SecretKey) nix.Keys {
	var all nix.Keys
	for _, k := range keys {
		all = append(all, k.Public())
	}
	return all
}

// A clock stands still until it is told otherwise.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time          { return c.now }
func (c *clock) Advance(d time.Duration) { c.now = c.now.Add(d) }

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// open returns the pointer web-1 in store, signed by our key, as changed by options.
func open(store blob.Store, options ...func(*Config)) *Pointer {
	config := Config{
		Name:        "web-1",
		PublicKeys:  public(ours),
		RequireSigs: true,
		SigningKeys: []nix.SecretKey{ours},
		Now:         (&clock{start}).Now,
	}
	for _, option := range options {
		option(&config)
	}
	p := New(store, config)
	p.pause = time.Microsecond
	return p
}

// Options of open.

func signedBy(keys ...nix.SecretKey) func(*Config) {
	return func(c *Config) { c.SigningKeys = keys }
}

func accepting(keys ...nix.SecretKey) func(*Config) {
	return func(c *Config) { c.PublicKeys = public(keys...) }
}

func unsigned(c *Config) { c.RequireSigs, c.SigningKeys, c.PublicKeys = false, nil, nil }

// path is a store path whose hash ends in label, for which letters of Nix's
// base 32 will do, and numbers.
func path(label string) nix.StorePath {
	p, err := nix.ParseBaseName(strings.Repeat("0", 32-len(label)) + label + "-nixos-system-web-1-25.05")
	if err != nil {
		panic(err)
	}
	return p
}

func proposal(label string) Proposal {
	return Proposal{
		Path:    path(label),
		System:  "x86_64-linux",
		NarHash: nix.Hash{label[0]},
		Details: Details{Message: "system " + label},
	}
}

// mustAppend appends the systems of all labels, one after the other.
func mustAppend(t *testing.T, p *Pointer, labels ...string) Outcome {
	t.Helper()
	var outcome Outcome
	for _, label := range labels {
		var err error
		if outcome, err = p.Append(t.Context(), proposal(label)); err != nil {
			t.Fatalf("appending %s: %v", label, err)
		}
	}
	return outcome
}

// fill makes an empty pointer have systems 1 to n, as if they had been appended.
func fill(t *testing.T, p *Pointer, n int) {
	t.Helper()
	if n == 0 {
		return
	}
	history := new(History)
	for i := range n {
		g, err := p.generation(uint64(i+1), proposal(strconv.Itoa(i+1)))
		if err != nil {
			t.Fatal(err)
		}
		history.entries = slices.Insert(history.entries, 0, g)
	}
	if err := p.replace(t.Context(), new(History), history.entries); err != nil {
		t.Fatal(err)
	}
	if _, err := p.settle(t.Context(), nil, plainStep{}); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, p *Pointer) *History {
	t.Helper()
	history, err := p.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return history
}

func mustLook(t *testing.T, p *Pointer) *History {
	t.Helper()
	history, err := p.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return history
}

// diff compares what holds generations.
func diff(want, got any, options ...cmp.Option) string {
	return cmp.Diff(want, got, append(options, cmpopts.EquateComparable(nix.StorePath{}))...)
}

// wantGenerations compares a pointer's history and its copy with what they
// should be, such as "3:b 2:a 1:b".
func wantGenerations(t *testing.T, p *Pointer, want string) {
	t.Helper()
	history := mustRead(t, p)
	if diff := cmp.Diff(want, inShort(history.Generations)); diff != "" {
		t.Errorf("history (-want +got)\n%s", diff)
	}
	wantPlain(t, p)
}

func inShort(generations []Generation) string {
	var b strings.Builder
	for _, g := range generations {
		fmt.Fprintf(&b, " %d:%s", g.Number, strings.TrimLeft(g.Path.HashPart(), "0"))
	}
	return strings.TrimPrefix(b.String(), " ")
}

// wantPlain fails unless the copy agrees with the history.
func wantPlain(t *testing.T, p *Pointer) {
	t.Helper()
	if diff := cmp.Diff(mustRead(t, p).plain(), get(t, p.store, "pointers/web-1")); diff != "" {
		t.Errorf("copy (-want +got)\n%s", diff)
	}
}

// wantError fails unless err says what it is to say and has some advice.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error is %q, want one that says %q", err, want)
	}
	if len(hint.Of(err)) == 0 {
		t.Errorf("no advice comes with %q", err)
	}
}

func get(t *testing.T, store blob.Store, key string) string {
	t.Helper()
	data, _, err := blob.ReadAll(t.Context(), store, key, 8<<20, blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func put(t *testing.T, store blob.Store, key, text string) {
	t.Helper()
	if _, err := store.Put(t.Context(), key, strings.NewReader(text), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// edit changes the JSON of an object, as somebody can who may write to the bucket.
func edit[T any](t *testing.T, store blob.Store, key string, change func(*T)) {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(get(t, store, key)), &value); err != nil {
		t.Fatal(err)
	}
	change(&value)
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, key, string(text))
}

// A storeFunc is a store between whose users and which somebody stands. Either
// function may be nil.
type storeFunc struct {
	blob.Store
	get func(key string, next func() (*blob.Object, error)) (*blob.Object, error)
	put func(key string, opts blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error)
	can *blob.Capabilities
}

func (s storeFunc) Get(ctx context.Context, key string, opts blob.GetOptions) (*blob.Object, error) {
	next := func() (*blob.Object, error) { return s.Store.Get(ctx, key, opts) }
	if s.get == nil {
		return next()
	}
	return s.get(key, next)
}

func (s storeFunc) Put(ctx context.Context, key string, body io.Reader, opts blob.PutOptions) (blob.Info, error) {
	next := func() (blob.Info, error) { return s.Store.Put(ctx, key, body, opts) }
	if s.put == nil {
		return next()
	}
	return s.put(key, opts, next)
}

func (s storeFunc) Capabilities() blob.Capabilities {
	if s.can == nil {
		return s.Store.Capabilities()
	}
	return *s.can
}
