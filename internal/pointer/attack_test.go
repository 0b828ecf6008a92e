package pointer

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// These tests are those of somebody who may write anything to the bucket, and
// has no key that the reader accepts.

// A file is a pointer's object with its entries as anybody may edit them.
type file struct {
	Pointer     string           `json:"pointer"`
	Generations []map[string]any `json:"generations"`
}

const object = "pointers/web-1.json"

// attack makes a pointer with generations 1:a 2:b 3:c, changes its object, and
// returns what its reader says.
func attack(t *testing.T, change func(*file)) error {
	t.Helper()
	store := blob.NewMemory()
	p := open(store)
	mustAppend(t, p, "a", "b", "c")
	edit(t, store, object, func(f *file) {}) // harmless in itself
	wantGenerations(t, p, "3:c 2:b 1:a")
	edit(t, store, object, change)
	_, err := p.Read(t.Context())
	if _, appendErr := p.Append(t.Context(), proposal("d")); err != nil && appendErr == nil {
		t.Error("a writer builds on what a reader refuses")
	}
	return err
}

func TestEveryFieldIsSigned(t *testing.T) {
	for field, value := range map[string]any{
		"generation": 4,
		"path":       path("z").String(),
		"system":     "aarch64-linux",
		"narHash":    nix.Hash{9}.String(),
		"created":    start.Unix() - 1,
		"expires":    start.Unix() + 1e9,
		"details":    `{"run":"x","message":"all is well"}`,
	} {
		t.Run(field, func(t *testing.T) {
			err := attack(t, func(f *file) {
				if f.Generations[0][field] == nil {
					t.Fatal("there is no such field")
				}
				f.Generations[0][field] = value
			})
			wantError(t, err, "does not match its signature")
		})
	}
}

func TestRenumber(t *testing.T) {
	// An old generation, made to look like the newest.
	err := attack(t, func(f *file) {
		f.Generations[2]["generation"] = 4
		f.Generations = append(f.Generations[2:], f.Generations[:2]...)
	})
	wantError(t, err, "generation 4 of pointer web-1 in memory: does not match its signature")
}

func TestReorder(t *testing.T) {
	err := attack(t, func(f *file) {
		f.Generations[0], f.Generations[1] = f.Generations[1], f.Generations[0]
	})
	wantError(t, err, "generation 3 stands below generation 2")
}

func TestRepeatedNumbers(t *testing.T) {
	err := attack(t, func(f *file) {
		f.Generations = append(f.Generations[:1], f.Generations...)
	})
	wantError(t, err, "generation 3 stands below generation 3")
}

func TestTransplantedSignature(t *testing.T) {
	err := attack(t, func(f *file) {
		f.Generations[0]["signatures"] = f.Generations[1]["signatures"]
	})
	wantError(t, err, "does not match its signature")
}

func TestStrippedSignature(t *testing.T) {
	for name, signatures := range map[string]any{"empty": []string{}, "null": nil} {
		t.Run(name, func(t *testing.T) {
			err := attack(t, func(f *file) { f.Generations[0]["signatures"] = signatures })
			wantError(t, err, "generation 3 of pointer web-1 in memory: is not signed")
		})
	}
}

func TestStrangersSignature(t *testing.T) {
	for _, test := range []struct {
		key  nix.SecretKey
		want string
	}{
		{strangers, `is signed by "stranger-1"; accepted are signatures by cache.example.org-1`},
		{namesake, `does not match its signature by "cache.example.org-1"`},
	} {
		store := blob.NewMemory()
		mustAppend(t, open(store, signedBy(test.key), accepting(test.key)), "a")
		_, err := open(store).Read(t.Context())
		wantError(t, err, test.want)
		_, err = open(store).Append(t.Context(), proposal("b"))
		wantError(t, err, test.want)
	}
}

func TestSwapPointerFile(t *testing.T) {
	// Whatever web-2 should run is made to be what web-1 should run.
	store := blob.NewMemory()
	mustAppend(t, open(store, func(c *Config) { c.Name = "web-2" }), "a")
	put(t, store, object, get(t, store, "pointers/web-2.json"))
	_, err := open(store).Read(t.Context())
	wantError(t, err, "it is a copy of the pointer web-2")

	edit(t, store, object, func(f *file) { f.Pointer = "web-1" })
	_, err = open(store).Read(t.Context())
	wantError(t, err, "does not match its signature")
}

func TestSwapNumberedGenerations(t *testing.T) {
	store := blob.NewMemory()
	p := open(store)
	fill(t, p, Keep+3)
	first, second := "pointers/web-1.d/1.json", "pointers/web-1.d/2.json"

	text := get(t, store, first)
	put(t, store, second, text)
	_, err := p.Find(t.Context(), 2)
	wantError(t, err, "it holds generation 1")

	put(t, store, second, strings.Replace(text, `"generation":1`, `"generation":2`, 1))
	_, err = p.Find(t.Context(), 2)
	wantError(t, err, "does not match its signature")
}

func TestRollback(t *testing.T) {
	// An object that was true once can be put back. Nothing in it tells, but
	// everybody who remembers a number notices.
	store := blob.NewMemory()
	p := open(store)
	mustAppend(t, p, "a", "b")
	old := get(t, store, object)
	mustAppend(t, p, "c")
	put(t, store, object, old)

	if newest, _ := mustRead(t, p).Newest(); newest.Number != 2 {
		t.Errorf("newest is %d", newest.Number)
	}
	_, err := p.Find(t.Context(), 3)
	wantError(t, err, "the newest is 2")
	if !errors.Is(err, ErrGone) {
		t.Errorf("%v is not ErrGone", err)
	}
	proposal := proposal("d")
	proposal.IfGeneration = new(uint64(3))
	_, err = p.Append(t.Context(), proposal)
	wantError(t, err, "the newest generation is 2, not 3")
}

func TestRestart(t *testing.T) {
	// Without its object, a pointer would begin again at number 1.
	store := blob.NewMemory()
	p := open(store)
	mustAppend(t, p, "a", "b")
	if err := store.Delete(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	_, err := p.Append(t.Context(), proposal("c"))
	wantError(t, err, "only its plain-text copy is left")
	seen := proposal("c")
	seen.Seen = mustRead(t, p)
	_, err = p.Append(t.Context(), seen)
	wantError(t, err, "only its plain-text copy is left")
	_, err = p.Look(t.Context()) // before anything is built
	wantError(t, err, "only its plain-text copy is left")

	put(t, store, object, `{"pointer":"web-1","generations":[]}`)
	_, err = p.Append(t.Context(), proposal("c"))
	wantError(t, err, "it holds no generations")
}

func TestRestartOfAnOldPointer(t *testing.T) {
	// Its object and the copy are gone; what has left the history isn't.
	store := blob.NewMemory()
	p := open(store)
	fill(t, p, Keep+1)
	for _, key := range []string{object, "pointers/web-1"} {
		if err := store.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	_, err := p.Look(t.Context()) // before anything is built
	wantError(t, err, "generations that had left it are still there")
	_, err = p.Append(t.Context(), proposal("c"))
	wantError(t, err, "generations that had left it are still there")
	seen := proposal("c")
	seen.Seen = mustRead(t, p)
	_, err = p.Append(t.Context(), seen)
	wantError(t, err, "generations that had left it are still there")

	// Another's generations are not its own, and who may not list can't know.
	mustAppend(t, open(store, func(c *Config) { c.Name = "web" }), "a")
	proposal := proposal("a")
	blind := open(unlisted{store})
	proposal.Seen = mustLook(t, blind)
	if outcome, err := blind.Append(t.Context(), proposal); err != nil || outcome.Generation.Number != 1 {
		t.Errorf("appended %+v, %v", outcome, err)
	}
}

// An unlisted store may not be listed.
type unlisted struct{ blob.Store }

func (u unlisted) List(context.Context, string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) { yield(blob.Info{}, blob.ErrPermission) }
}

func TestFreeze(t *testing.T) {
	// The same object for ever: followers notice once it has expired.
	p := open(blob.NewMemory(), func(c *Config) { c.ExpiresAfter = time.Hour })
	g := mustAppend(t, p, "a").Generation
	for _, test := range []struct {
		after time.Duration
		want  bool
	}{{0, false}, {time.Hour - time.Second, false}, {time.Hour, true}, {1000 * time.Hour, true}} {
		if got := g.Expired(start.Add(test.after)); got != test.want {
			t.Errorf("after %v: %v", test.after, got)
		}
	}
}

func TestLateralSignature(t *testing.T) {
	// The same key signs paths. What it signs of a path is no generation.
	info := nix.PathInfo{Path: path("a"), NarHash: nix.Hash{1}, NarSize: 1}
	info.Sign([]nix.SecretKey{ours})
	err := attack(t, func(f *file) {
		f.Generations[0]["signatures"] = []string{info.Signatures[0].String()}
	})
	wantError(t, err, "does not match its signature")
}

func TestSeparatorInField(t *testing.T) {
	err := attack(t, func(f *file) { f.Generations[0]["system"] = "x;y" })
	wantError(t, err, `its system "x;y" is not one`)
}

// endless yields spaces for ever, and counts them.
type endless struct{ read int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	e.read += int64(len(p))
	return len(p), nil
}

func TestEndlessData(t *testing.T) {
	memory := blob.NewMemory()
	fill(t, open(memory), Keep+1)
	for _, test := range []struct {
		key   string
		limit int64
		do    func(*Pointer) error
		want  string
	}{
		{object, MaxObject, func(p *Pointer) error { _, err := p.Read(t.Context()); return err }, "web-1.json is larger than 1048576 bytes"},
		{"pointers/web-1.d/1.json", MaxEntry, func(p *Pointer) error { _, err := p.Find(t.Context(), 1); return err }, "1.json is larger than 4096 bytes"},
		{"pointers/web-1", maxPlain, func(p *Pointer) error { _, err := p.Append(t.Context(), proposal("a")); return err }, ""}, // it is written anew
	} {
		for _, announced := range []int64{-1, 1 << 40} {
			var body endless
			store := storeFunc{Store: memory, get: func(key string, next func() (*blob.Object, error)) (*blob.Object, error) {
				if key != test.key {
					return next()
				}
				return &blob.Object{Info: blob.Info{Key: key, Size: announced}, Body: io.NopCloser(&body)}, nil
			}}
			err := test.do(open(store))
			if test.want != "" {
				wantError(t, err, test.want)
			} else if err != nil {
				t.Errorf("%s: %v", test.key, err)
			}
			if body.read > 2*test.limit {
				t.Errorf("%s: %d bytes were read, %d are permitted", test.key, body.read, test.limit)
			}
		}
	}
}

func TestGarbage(t *testing.T) {
	entry := `{"generation":1,"path":"` + path("a").String() + `","system":"x86_64-linux","narHash":"` + nix.Hash{1}.String() +
		`","created":1,"expires":0,"details":"{}","signatures":[]}`
	whole := func(entries ...string) string {
		return `{"pointer":"web-1","generations":[` + strings.Join(entries, ",") + `]}`
	}
	change := func(old, new string) string {
		if !strings.Contains(entry, old) {
			t.Fatalf("%s is not in %s", old, entry)
		}
		return whole(strings.Replace(entry, old, new, 1))
	}

	store := blob.NewMemory()
	put(t, store, object, whole(entry))
	if got := inShort(mustRead(t, open(store, unsigned)).Generations); got != "1:a" {
		t.Fatalf("the example is read as %s", got)
	}
	for name, test := range map[string]struct{ text, want string }{
		"nothing":            {"", "unexpected end of JSON input"},
		"HTML":               {"<html>", "invalid character"},
		"truncated":          {whole(entry)[:200], "unexpected end of JSON input"},
		"trailing":           {whole(entry) + whole(entry), "after top-level value"},
		"null":               {"null", "doesn't say whose"},
		"list":               {"[" + entry + "]", "cannot unmarshal array"},
		"bad name":           {`{"pointer":"../x"}`, "can't be a pointer's name"},
		"no generations":     {`{"pointer":"web-1"}`, "it holds no generations"},
		"null generation":    {whole("null"), "entry 1 of 1: its number 0"},
		"later generation":   {whole(strings.Replace(entry, ":1,", ":2,", 1), `{}`), "entry 2 of 2: its number 0"},
		"negative number":    {change(`"generation":1`, `"generation":-1`), "cannot unmarshal number"},
		"fraction":           {change(`"generation":1`, `"generation":1.5`), "cannot unmarshal number"},
		"number as text":     {change(`"generation":1`, `"generation":"1"`), "cannot unmarshal string"},
		"huge number":        {change(`"generation":1`, `"generation":9007199254740992`), "is not between 1 and"},
		"no path":            {change(`"path"`, `"goal"`), "it has no path"},
		"bad path":           {change("/nix/store/", "/nix/stare/"), "is not a store path"},
		"path below":         {change(`25.05"`, `25.05/bin"`), "is not a store path"},
		"no system":          {change(`x86_64-linux`, ``), `its system "" is not one`},
		"no hash":            {change(`"narHash"`, `"hash"`), "it has no narHash"},
		"bad hash":           {change(`"sha256:`, `"md5:`), "is not a SHA-256"},
		"before 1970":        {change(`"created":1`, `"created":-1`), "before 1970"},
		"no details":         {change(`"details"`, `"remarks"`), "it has no details"},
		"details are a list": {change(`"{}"`, `"[]"`), "its details"},
		"details are null":   {change(`"{}"`, `null`), "it has no details"},
		"details not text":   {change(`"{}"`, `{}`), "cannot unmarshal object"},
		"bad signature":      {change(`[]`, `["cache.example.org-1:AAAA"]`), "is not a signature"},
		"long entry":         {change(`"{}"`, `"{\"x\":\"`+strings.Repeat("x", MaxEntry)+`\"}"`), "may have 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			put(t, store, object, test.text)
			_, err := open(store, unsigned).Read(t.Context())
			wantError(t, err, test.want)
			if _, err := open(store, unsigned).Append(t.Context(), proposal("b")); err == nil {
				t.Error("a writer builds on it")
			}
			if diff := cmp.Diff(test.text, get(t, store, object)); diff != "" {
				t.Errorf("a writer changed it (-want +got)\n%s", diff)
			}
		})
	}
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	store := blob.NewMemory()
	p := open(store)
	mustAppend(t, p, "a")
	edit(t, store, object, func(f *map[string]any) {
		(*f)["comment"] = "from the future"
		(*f)["generations"].([]any)[0].(map[string]any)["colour"] = map[string]any{"r": 1}
	})
	wantGenerations(t, p, "1:a")
	mustAppend(t, p, "b")
	wantGenerations(t, p, "2:b 1:a")
}
