package pointer

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

func TestAppend(t *testing.T) {
	p := open(blob.NewMemory())
	if history := mustRead(t, p); len(history.Generations) != 0 {
		t.Errorf("a pointer that was never written has generations: %v", history)
	}
	for _, step := range []struct {
		label string
		moved bool
		want  string
	}{
		{"a", true, "1:a"},
		{"a", false, "1:a"},
		{"b", true, "2:b 1:a"},
		{"a", true, "3:a 2:b 1:a"}, // going back is going on
		{"a", false, "3:a 2:b 1:a"},
	} {
		outcome := mustAppend(t, p, step.label)
		if outcome.Moved != step.moved || outcome.Generation.Path != path(step.label) {
			t.Errorf("%s: outcome is %+v", step.label, outcome)
		}
		wantGenerations(t, p, step.want)
	}
}

func TestAppendedGeneration(t *testing.T) {
	p := open(blob.NewMemory(), func(c *Config) { c.ExpiresAfter = 24 * time.Hour })
	want := Generation{
		Number:  1,
		Path:    path("a"),
		System:  "aarch64-linux",
		NarHash: nix.Hash{7},
		Created: start.Unix(),
		Expires: start.Unix() + 86400,
		Details: Details{
			Provenance: Provenance{"main", "fleet", "build", "12", "https://ci.example.org/builds/12"},
			Revision:   "4bdde671e0a1",
			Origin:     &Origin{Pointer: "web-1-candidate", Generation: 7, Signature: "k:s"},
			Message:    "a <b> & “c”\n",
			Changes:    "nginx: 1.26.2 → 1.26.3",
			Sizes:      Sizes{373, 1 << 40},
		},
	}
	outcome, err := p.Append(t.Context(), Proposal{Path: want.Path, System: want.System, NarHash: want.NarHash, Details: want.Details})
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Find(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := diff(outcome.Generation, got); diff != "" {
		t.Errorf("what Append returned and Find found (-want +got)\n%s", diff)
	}
	if len(got.Details.Run) < 20 || len(got.Signatures) != 1 {
		t.Errorf("run is %q, signatures are %v", got.Details.Run, got.Signatures)
	}
	ignored := cmpopts.IgnoreFields(Generation{}, "Details", "Signatures")
	if diff := diff(want, got, ignored); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	want.Details.Run = got.Details.Run
	if diff := cmp.Diff(detailsFields(want.Details), detailsFields(got.Details), cmpopts.IgnoreUnexported(detailsFields{})); diff != "" {
		t.Errorf("details (-want +got)\n%s", diff)
	}
}

func TestSamePathOtherBytes(t *testing.T) {
	// The cache was lost and filled again by a build that is not reproducible:
	// what the newest generation says of the path is not true any more.
	p := open(blob.NewMemory())
	mustAppend(t, p, "a")
	again := proposal("a")
	again.NarHash = nix.Hash{99}
	outcome, err := p.Append(t.Context(), again)
	if err != nil || !outcome.Moved || outcome.Generation.NarHash != again.NarHash {
		t.Errorf("got %+v, %v", outcome, err)
	}
	wantGenerations(t, p, "2:a 1:a")
}

func TestIfGeneration(t *testing.T) {
	for _, test := range []struct {
		name  string
		there []string
		only  uint64
		label string
		want  string
		err   *MovedError
	}{
		{"first", nil, 0, "a", "1:a", nil},
		{"not first", []string{"a"}, 0, "b", "1:a", &MovedError{0, 1}},
		{"next", []string{"a", "b"}, 2, "c", "3:c 2:b 1:a", nil},
		{"moved", []string{"a", "b"}, 1, "c", "2:b 1:a", &MovedError{1, 2}},
		{"not there", nil, 1, "a", "", &MovedError{1, 0}},
		{"moved to just that", []string{"a", "b"}, 1, "b", "2:b 1:a", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := open(blob.NewMemory())
			mustAppend(t, p, test.there...)
			proposal := proposal(test.label)
			proposal.IfGeneration = &test.only
			_, err := p.Append(t.Context(), proposal)
			var moved *MovedError
			errors.As(err, &moved)
			if diff := cmp.Diff(test.err, moved); diff != "" {
				t.Errorf("error (-want +got)\n%s", diff)
			}
			if test.err != nil {
				wantError(t, err, "pointer web-1 in memory: has moved")
			} else if err != nil {
				t.Error(err)
			}
			if test.want != "" {
				wantGenerations(t, p, test.want)
			}
		})
	}
}

func TestIfGenerationInARace(t *testing.T) {
	// Between reading and writing, another writer moves the pointer.
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	store := before(memory, object, 1, func() { mustAppend(t, open(memory), "b") })
	proposal := proposal("c")
	proposal.IfGeneration = new(uint64(1))
	_, err := open(store).Append(t.Context(), proposal)
	wantError(t, err, "the newest generation is 2, not 1")
	wantGenerations(t, open(memory), "2:b 1:a")
}

func TestRefusals(t *testing.T) {
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	var requests int
	for name, test := range map[string]struct {
		option func(*Config)
		can    blob.Capabilities
		want   string
		is     error
	}{
		"no key to sign with": {signedBy(), can, "there is no key to sign pointer web-1", nil},
		"no key to read with": {accepting(), can, "no key is accepted for pointer web-1", nil},
		"no keys at all":      {func(c *Config) { c.PublicKeys, c.SigningKeys = nil, nil }, can, "there is no key to sign pointer web-1", nil},
		"stranger's key":      {signedBy(strangers), can, "what the key stranger-1 signs could not be read back from pointer web-1 in memory:, which accepts cache.example.org-1", nil},
		"stranger's key too":  {signedBy(ours, strangers), can, "what the key stranger-1 signs could not be read back", nil},
		"namesake":            {signedBy(namesake), can, "what the key cache.example.org-1 signs could not be read back", nil},
		"read only":           {nil, blob.Capabilities{}, "can't be moved", blob.ErrReadOnly},
		"no conditions":       {nil, blob.Capabilities{Write: true}, "the store has no conditional writes", errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			store := storeFunc{
				Store: memory,
				get: func(_ string, next func() (*blob.Object, error)) (*blob.Object, error) {
					requests++
					return next()
				},
				put: func(_ string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
					requests++
					return next()
				},
				can: &test.can,
			}
			option := test.option
			if option == nil {
				option = func(*Config) {}
			}
			_, err := open(store, option).Append(t.Context(), proposal("b"))
			wantError(t, err, test.want)
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%v is not %v", err, test.is)
			}
		})
	}
	if requests != 0 {
		t.Errorf("%d requests were made", requests)
	}
	wantGenerations(t, open(memory), "1:a")
}

var can = blob.NewMemory().Capabilities()

func TestBadProposals(t *testing.T) {
	p := open(blob.NewMemory())
	for name, test := range map[string]struct {
		change func(*Proposal)
		want   string
	}{
		"no path":         {func(p *Proposal) { p.Path = nix.StorePath{} }, "it has no path"},
		"no system":       {func(p *Proposal) { p.System = "" }, `its system "" is not one`},
		"injected system": {func(p *Proposal) { p.System = "x86_64-linux;/nix/store" }, "is not one"},
		"no hash":         {func(p *Proposal) { p.NarHash = nix.Hash{} }, "it has no narHash"},
		"long message":    {func(p *Proposal) { p.Details.Message = strings.Repeat("x", MaxMessage+1) }, "the message has 1025 bytes, and may have 1024"},
		"long details":    {func(p *Proposal) { p.Details.Changes = strings.Repeat("x", 3<<10) }, "and may take 3072: its details have"},
		"costly message":  {func(p *Proposal) { p.Details.Message = strings.Repeat("\x00", MaxMessage) }, "1024 of which are the message"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := proposal("a")
			test.change(&bad)
			_, err := p.Append(t.Context(), bad)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one that says %q", err, test.want)
			}
			if newest, ok := mustRead(t, p).Newest(); ok {
				t.Errorf("there is %v", newest)
			}
		})
	}
	longest := proposal("a")
	longest.Details.Message = strings.Repeat("\n", MaxMessage-800) + strings.Repeat("ü", 400)
	if _, err := p.Append(t.Context(), longest); err != nil {
		t.Error(err)
	}
}

func TestMessageThatIsNotUTF8(t *testing.T) {
	p := open(blob.NewMemory())
	latin := proposal("a")
	latin.Details.Message = "gr\xfc\xdfe"
	if _, err := p.Append(t.Context(), latin); err != nil {
		t.Fatal(err)
	}
	if newest, _ := mustRead(t, p).Newest(); newest.Details.Message != "gr��e" {
		t.Errorf("message is %q", newest.Details.Message)
	}
}

func TestBoundedHistory(t *testing.T) {
	store := blob.NewMemory()
	p := open(store, unsigned) // for speed; TestKilledAtAnyWrite has the same with signatures
	for i := range 120 {
		mustAppend(t, p, strconv.Itoa(i+1))
	}
	history := mustRead(t, p)
	if len(history.Generations) != 50 || history.Generations[49].Number != 71 {
		t.Errorf("history has %d generations", len(history.Generations))
	}
	kept := 0
	for _, err := range store.List(t.Context(), "pointers/web-1.d/") {
		if err != nil {
			t.Fatal(err)
		}
		kept++
	}
	if kept != 70 {
		t.Errorf("%d generations are kept, want 70", kept)
	}
	wantFindable(t, p, 120)
	if newest, err := p.Find(t.Context(), 0); err != nil || newest.Number != 120 {
		t.Errorf("the newest is %d, error %v", newest.Number, err)
	}
	if _, err := p.Find(t.Context(), 121); !errors.Is(err, ErrGone) {
		t.Errorf("121: %v", err)
	}
	if err := store.Delete(t.Context(), "pointers/web-1.d/9.json"); err != nil {
		t.Fatal(err)
	}
	_, err := p.Find(t.Context(), 9)
	wantError(t, err, "there is no such generation")
	if !errors.Is(err, ErrGone) {
		t.Errorf("%v is not ErrGone", err)
	}
}

// wantFindable fails unless p has generations 1 to n, as fill makes them.
func wantFindable(t *testing.T, p *Pointer, n int) {
	t.Helper()
	history := mustRead(t, p)
	for i := 1; i <= n; i++ {
		g, err := p.FindIn(t.Context(), history, uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		if g.Number != uint64(i) || g.Path != path(strconv.Itoa(i)) {
			t.Errorf("%d is %+v", i, g)
		}
	}
}

func TestBounds(t *testing.T) {
	// A full history is far from what a reader takes.
	if Keep*MaxEntry > MaxObject/2 {
		t.Errorf("%d entries of %d bytes leave nothing of %d", Keep, MaxEntry, MaxObject)
	}
}

func TestOtherGenerationInTheWay(t *testing.T) {
	// An old object was put back and built upon: the number was given twice.
	store := blob.NewMemory()
	p := open(store)
	fill(t, p, Keep)
	put(t, store, "pointers/web-1.d/1.json", strings.Replace(entryOf(t, p, 1), "system 1", "system x", 1))
	_, err := p.Append(t.Context(), proposal("b"))
	wantError(t, err, "generation 1 is another one in the history")
	if newest, _ := mustRead(t, p).Newest(); newest.Number != Keep {
		t.Errorf("newest is %d", newest.Number)
	}
}

func entryOf(t *testing.T, p *Pointer, number uint64) string {
	t.Helper()
	g, err := p.Find(t.Context(), number)
	if err != nil {
		t.Fatal(err)
	}
	data, err := g.encode(MaxEntry)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestStaleCopyIsMended(t *testing.T) {
	for name, text := range map[string]string{
		"missing": "", "stale": path("a").String() + "\n", "garbage": "<html>", "no newline": path("b").String(), "large": strings.Repeat("x", 2<<20),
	} {
		t.Run(name, func(t *testing.T) {
			store := blob.NewMemory()
			p := open(store)
			mustAppend(t, p, "a", "b")
			if text == "" {
				if err := store.Delete(t.Context(), "pointers/web-1"); err != nil {
					t.Fatal(err)
				}
			} else {
				put(t, store, "pointers/web-1", text)
			}
			if outcome := mustAppend(t, p, "b"); outcome.Moved {
				t.Error("it moved")
			}
			wantGenerations(t, p, "2:b 1:a")
		})
	}
}

func TestNothingNewIsTwoRequests(t *testing.T) {
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	var requests []string
	store := storeFunc{
		Store: memory,
		get: func(key string, next func() (*blob.Object, error)) (*blob.Object, error) {
			requests = append(requests, "GET "+key)
			return next()
		},
		put: func(key string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
			requests = append(requests, "PUT "+key)
			return next()
		},
	}
	mustRead(t, open(store))
	if diff := cmp.Diff([]string{"GET pointers/web-1.json"}, requests); diff != "" {
		t.Errorf("Read (-want +got)\n%s", diff)
	}
	requests = nil
	mustAppend(t, open(store), "a")
	if diff := cmp.Diff([]string{"GET pointers/web-1.json", "GET pointers/web-1"}, requests); diff != "" {
		t.Errorf("Append of what is there (-want +got)\n%s", diff)
	}
	requests = nil
	mustAppend(t, open(store), "b")
	want := []string{
		"GET pointers/web-1.json", "PUT pointers/web-1.json",
		"GET pointers/web-1", "PUT pointers/web-1", "GET pointers/web-1.json",
	}
	if diff := cmp.Diff(want, requests); diff != "" {
		t.Errorf("Append (-want +got)\n%s", diff)
	}

	// A history that was read before isn't read again.
	for _, test := range []struct {
		label string
		want  []string
	}{{"b", []string{"GET pointers/web-1"}}, {"c", want[1:]}} {
		proposal := proposal(test.label)
		proposal.Seen = mustRead(t, open(memory))
		requests = nil
		if _, err := open(store).Append(t.Context(), proposal); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, requests); diff != "" {
			t.Errorf("Append of %s to what was seen (-want +got)\n%s", test.label, diff)
		}
	}

	// Nor is a copy that was read with it. Long after, one look at the history has
	// to do for both, if it hasn't changed.
	for _, test := range []struct {
		label   string
		longAgo bool
		want    []string
	}{
		{"c", false, nil},
		{"c", true, []string{"GET pointers/web-1.json"}},
		{"d", true, []string{"PUT pointers/web-1.json", "PUT pointers/web-1", "GET pointers/web-1.json"}},
	} {
		proposal := proposal(test.label)
		proposal.Seen, proposal.SeenLongAgo = mustLook(t, open(memory)), test.longAgo
		requests = nil
		if _, err := open(store).Append(t.Context(), proposal); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, requests); diff != "" {
			t.Errorf("Append of %s to what was looked at (-want +got)\n%s", test.label, diff)
		}
	}
}

// That a pointer stays is said of what it is now, however long ago it was looked
// at.
func TestNothingNewIsLookedAtAgain(t *testing.T) {
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	again := proposal("a")
	again.Seen, again.SeenLongAgo = mustLook(t, open(memory)), true
	mustAppend(t, open(memory), "b")
	outcome, err := open(memory).Append(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	if !outcome.Moved || outcome.Generation.Number != 3 {
		t.Errorf("it has moved since it was seen: got %+v", outcome)
	}
	wantGenerations(t, open(memory), "3:a 2:b 1:a")

	again.Seen = mustLook(t, open(memory))
	mustAppend(t, open(memory), "b")
	again.IfGeneration = new(uint64(3))
	_, err = open(memory).Append(t.Context(), again)
	var moved *MovedError
	if !errors.As(err, &moved) || moved.Got != 4 {
		t.Errorf("it was not to move, and has: got %v", err)
	}
}

func TestCopyChangesAfterTheLook(t *testing.T) {
	for _, test := range []struct {
		name      string
		meanwhile func(*testing.T, blob.Store)
	}{
		{"nothing", func(*testing.T, blob.Store) {}},
		{"it is deleted", func(t *testing.T, store blob.Store) {
			if err := store.Delete(t.Context(), "pointers/web-1"); err != nil {
				t.Error(err)
			}
		}},
		{"somebody overwrites it", func(t *testing.T, store blob.Store) { put(t, store, "pointers/web-1", "/nix/store/…\n") }},
		{"another writer mends it", func(t *testing.T, store blob.Store) { mustAppend(t, open(store), "b") }},
	} {
		for _, before := range []string{path("b").String() + "\n", path("a").String() + "\n", ""} {
			for _, label := range []string{"b", "c"} {
				t.Run(test.name+" "+before+label, func(t *testing.T) {
					memory := blob.NewMemory()
					mustAppend(t, open(memory), "a", "b")
					put(t, memory, "pointers/web-1", before)
					proposal := proposal(label)
					proposal.Seen = mustLook(t, open(memory))
					test.meanwhile(t, memory)
					if _, err := open(memory).Append(t.Context(), proposal); err != nil {
						t.Fatal(err)
					}
					switch {
					case label == "c":
						wantGenerations(t, open(memory), "3:c 2:b 1:a")
					case before != path("b").String()+"\n": // what was right is not looked at again
						wantGenerations(t, open(memory), "2:b 1:a")
					}
				})
			}
		}
	}
}

// What is to be done meanwhile is done when the generation is there, and before
// Append returns; and not at all if nothing moves.
func TestMeanwhile(t *testing.T) {
	memory := blob.NewMemory()
	for _, label := range []string{"a", "a", "b"} {
		var called []uint64
		proposal := proposal(label)
		proposal.Meanwhile = func(ctx context.Context, g Generation) {
			if newest, _ := mustRead(t, open(memory)).Newest(); newest.Number != g.Number {
				t.Errorf("called for generation %d when the newest is %d", g.Number, newest.Number)
			}
			called = append(called, g.Number)
		}
		outcome, err := open(memory).Append(t.Context(), proposal)
		if err != nil {
			t.Fatal(err)
		}
		var want []uint64
		if outcome.Moved {
			want = []uint64{outcome.Generation.Number}
		}
		if diff := cmp.Diff(want, called); diff != "" {
			t.Errorf("%s (-want +got)\n%s", label, diff)
		}
	}
}

func TestSeenIsNoLongerTrue(t *testing.T) {
	never, one := []string(nil), []string{"a"}
	for _, test := range []struct {
		name             string
		there, meanwhile []string
		label            string
		only             *uint64
		want, wantError  string
	}{
		{"others have moved it", one, []string{"x", "y"}, "b", nil, "4:b 3:y 2:x 1:a", ""},
		{"others have begun it", never, []string{"x"}, "b", nil, "2:b 1:x", ""},
		{"others have been there, too", one, []string{"b"}, "b", nil, "2:b 1:a", ""},
		{"it should have stayed", one, []string{"x"}, "b", new(uint64(1)), "2:x 1:a", "the newest generation is 2, not 1"},
	} {
		for name, options := range map[string]func(*Config){
			"": func(*Config) {}, ", single writer": func(c *Config) { c.SingleWriter = true },
		} {
			t.Run(test.name+name, func(t *testing.T) {
				p := open(blob.NewMemory(), options)
				mustAppend(t, p, test.there...)
				proposal := proposal(test.label)
				proposal.Seen, proposal.IfGeneration = mustRead(t, p), test.only
				mustAppend(t, p, test.meanwhile...)
				_, err := p.Append(t.Context(), proposal)
				if test.wantError != "" {
					wantError(t, err, test.wantError)
				} else if err != nil {
					t.Fatal(err)
				}
				wantGenerations(t, p, test.want)
			})
		}
	}
}

func TestHowObjectsAreStored(t *testing.T) {
	headers := make(map[string]string)
	memory := blob.NewMemory()
	fill(t, open(memory), Keep)
	store := storeFunc{Store: memory, put: func(key string, opts blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
		headers[key] = opts.ContentType + "; " + opts.CacheControl
		return next()
	}}
	mustAppend(t, open(store), "a")
	want := map[string]string{
		"pointers/web-1":          "text/plain; no-cache",
		"pointers/web-1.json":     "application/json; no-cache",
		"pointers/web-1.d/1.json": "application/json; public, max-age=31536000, immutable",
	}
	if diff := cmp.Diff(want, headers); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestExpiry(t *testing.T) {
	const month = 30 * 24 * time.Hour
	store, clock := blob.NewMemory(), &clock{start}
	p := open(store, func(c *Config) { c.ExpiresAfter, c.Now = month, clock.Now })
	first := mustAppend(t, p, "a", "b").Generation
	for _, step := range []struct {
		after   time.Duration // since the step before
		renewed bool
	}{
		{month / 2, false},
		{time.Second, true},
		{month / 2, false},
		{2 * month, true}, // long expired
		{0, false},
	} {
		clock.Advance(step.after)
		outcome := mustAppend(t, p, "b")
		if outcome.Moved || outcome.Renewed != step.renewed {
			t.Errorf("after %v more: %+v", step.after, outcome)
		}
		newest, _ := mustRead(t, p).Newest()
		if diff := diff(outcome.Generation, newest); diff != "" {
			t.Errorf("after %v more (-want +got)\n%s", step.after, diff)
		}
		if step.renewed && newest.Expires != clock.Now().Add(month).Unix() {
			t.Errorf("after %v more it expires at %d", step.after, newest.Expires)
		}
		if newest.Number != 2 || newest.Created != first.Created || !newest.Details.Equal(first.Details) || len(newest.Signatures) != 1 {
			t.Errorf("after %v more it is %+v", step.after, newest)
		}
	}
	wantGenerations(t, p, "2:b 1:a")

	// Who takes expires_after out of the source, doesn't want it to expire.
	forever := open(store)
	if outcome := mustAppend(t, forever, "b"); !outcome.Renewed || outcome.Generation.Expires != 0 {
		t.Errorf("got %+v", outcome)
	}
	if outcome := mustAppend(t, forever, "b"); outcome.Renewed {
		t.Error("it is renewed each time")
	}
}

func TestKeyRotation(t *testing.T) {
	store := blob.NewMemory()
	mustAppend(t, open(store), "a", "b", "c")
	before := mustRead(t, open(store)).Generations

	// Both keys are in use; a put that moves nothing is enough.
	both := open(store, signedBy(ours, next), accepting(ours, next))
	if outcome := mustAppend(t, both, "c"); outcome.Moved || outcome.Signed != 3 || len(outcome.Generation.Signatures) != 2 {
		t.Errorf("got %+v", outcome)
	}
	if outcome := mustAppend(t, both, "c"); outcome.Signed != 0 {
		t.Errorf("it is signed each time: %+v", outcome)
	}
	for name, reader := range map[string]*Pointer{"old": open(store), "both": both, "new": open(store, accepting(next))} {
		wantGenerations(t, reader, "3:c 2:b 1:a")
		if diff := diff(before, mustRead(t, reader).Generations, cmpopts.IgnoreFields(Generation{}, "Signatures")); diff != "" {
			t.Errorf("%s reader: more than signatures has changed (-want +got)\n%s", name, diff)
		}
	}
	// Then only the new one.
	mustAppend(t, open(store, signedBy(next), accepting(next)), "d")
	wantGenerations(t, open(store, accepting(next)), "4:d 3:c 2:b 1:a")
	_, err := open(store).Read(t.Context())
	wantError(t, err, `generation 4 of pointer web-1 in memory: is signed by "cache.example.org-2"; accepted are signatures by cache.example.org-1`)
}

func TestKeyReplacedAtOnce(t *testing.T) {
	store := blob.NewMemory()
	mustAppend(t, open(store), "a", "b")
	// The writer may still read what the old key signed, and signs with the new.
	mustAppend(t, open(store, signedBy(next), accepting(ours, next)), "c")
	// One of the generations before lacks the new signature after all.
	edit(t, store, object, func(f *file) {
		old := f.Generations[1]["signatures"].([]any)
		f.Generations[1]["signatures"] = old[:1]
	})
	p := open(store, signedBy(next), accepting(next))
	history := mustRead(t, p)
	if got := inShort(history.Generations); got != "3:c 1:a" || history.Skipped != 1 {
		t.Errorf("history is %s, and %d are skipped", got, history.Skipped)
	}
	_, err := p.Find(t.Context(), 2)
	wantError(t, err, "generation 2 of pointer web-1 in memory: is signed by")

	// Skipped is not dropped, and not vouched for either.
	mustAppend(t, p, "d")
	if got := inShort(mustRead(t, p).Generations); got != "4:d 3:c 1:a" {
		t.Errorf("history is %s", got)
	}
	if got := inShort(mustRead(t, open(store, accepting(ours, next))).Generations); got != "4:d 3:c 2:b 1:a" {
		t.Errorf("for one who accepts both keys, history is %s", got)
	}
}

func TestLaterSignaturesDoNotFit(t *testing.T) {
	// An entry is full: it keeps the signatures that it has.
	store := blob.NewMemory()
	p := open(store)
	long := proposal("a")
	long.Details.Changes = strings.Repeat("x", 2200)
	if _, err := p.Append(t.Context(), long); err != nil {
		t.Fatal(err)
	}
	keys := []nix.SecretKey{ours}
	for number := range byte(20) {
		keys = append(keys, key("one-more-key-for-cache.example.org", number))
	}
	many := open(store, signedBy(keys...), accepting(keys...))
	outcome := mustAppend(t, many, "a")
	if outcome.Signed != 0 || len(outcome.Generation.Signatures) != 1 {
		t.Errorf("got %+v", outcome)
	}
	if outcome := mustAppend(t, open(store, signedBy(ours, next), accepting(ours, next)), "a"); outcome.Signed != 1 {
		t.Errorf("one more doesn't fit: %+v", outcome)
	}
	wantGenerations(t, p, "1:a")
}

func TestUnsigned(t *testing.T) {
	store := blob.NewMemory()
	trusting := open(store, unsigned)
	mustAppend(t, trusting, "a", "b")
	wantGenerations(t, trusting, "2:b 1:a")
	_, err := open(store).Read(t.Context())
	wantError(t, err, "is not signed")

	// Signing what was unsigned takes one put of the newest path, by a writer
	// who doesn't ask for signatures. It signs that only.
	outcome := mustAppend(t, open(store, func(c *Config) { c.RequireSigs = false }), "b")
	if outcome.Moved || outcome.Signed != 1 {
		t.Errorf("got %+v", outcome)
	}
	wantGenerations(t, open(store), "2:b")
	wantGenerations(t, trusting, "2:b 1:a")
}

func TestDetailsAreKeptAsTheyWereSigned(t *testing.T) {
	store := blob.NewMemory()
	mustAppend(t, open(store), "a")
	text := "{ \"run\":\"x\",\t\"message\": \"ü \\u00fc\", \"later\": [1.0, null] }"
	g, err := open(store).Find(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Details.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	g.Signatures = nil
	g, _ = g.signed("web-1", []nix.SecretKey{ours})
	data, err := encodeHistory("web-1", []Generation{g})
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, object, string(data))

	mustAppend(t, open(store, signedBy(ours, next), accepting(ours, next)), "b")
	got, err := open(store, accepting(next)).Find(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if got.Details.text != text || got.Details.Message != "ü ü" {
		t.Errorf("details are %q", got.Details.text)
	}
}
