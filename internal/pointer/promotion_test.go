package pointer

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

// promotion proposes the system of a label, which was tested as a generation of
// another pointer, and which nobody has worked on before the clock's start.
func promotion(label string, origin Name, generation uint64) Proposal {
	return begun(0, label, origin, generation)
}

// begun is a promotion of what somebody has begun to work on at that minute.
func begun(minute int64, label string, origin Name, generation uint64) Proposal {
	p := proposal(label)
	p.Details.Origin = &Origin{Pointer: origin, Generation: generation, Signature: "k:s"}
	p.Details.Started = start.Unix() + 60*minute
	return p
}

// overruling is a proposal that allows older.
func overruling(p Proposal) Proposal {
	p.AllowOlder = true
	return p
}

func TestOlderPromotion(t *testing.T) {
	allowed := overruling(promotion("c", "candidate", 3))
	for _, test := range []struct {
		name  string
		there []Proposal // besides 1:a, which is no promotion
		next  Proposal
		want  string
		err   *OlderError
	}{
		{"the first", nil, promotion("b", "candidate", 5), "2:b 1:a", nil},
		{"a later one", []Proposal{promotion("b", "candidate", 5)}, promotion("c", "candidate", 6), "3:c 2:b 1:a", nil},
		{"an older one", []Proposal{promotion("b", "candidate", 5)}, promotion("c", "candidate", 3), "2:b 1:a", &OlderError{"candidate", 3, 5}},
		{"an older one, on purpose", []Proposal{promotion("b", "candidate", 5)}, allowed, "3:c 2:b 1:a", nil},
		{"the same again", []Proposal{promotion("b", "candidate", 5)}, promotion("b", "candidate", 5), "2:b 1:a", nil},
		{"the same again, after something else", []Proposal{promotion("b", "candidate", 5), proposal("c")}, promotion("b", "candidate", 5), "4:b 3:c 2:b 1:a", nil},
		{"an older one, after something else", []Proposal{promotion("b", "candidate", 5), proposal("c")}, promotion("d", "candidate", 3), "3:c 2:b 1:a", &OlderError{"candidate", 3, 5}},
		{"one of another pointer", []Proposal{promotion("b", "candidate", 5)}, promotion("c", "hotfix", 1), "3:c 2:b 1:a", nil},
		{"older than before the hotfix", []Proposal{promotion("b", "candidate", 5), promotion("c", "hotfix", 1)}, promotion("d", "candidate", 3), "3:c 2:b 1:a", &OlderError{"candidate", 3, 5}},
		{"later than what was gone back to", []Proposal{promotion("b", "candidate", 5), allowed}, promotion("d", "candidate", 4), "4:d 3:c 2:b 1:a", nil},
		{"older, but what runs already", []Proposal{promotion("b", "candidate", 5)}, promotion("b", "candidate", 3), "2:b 1:a", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := open(blob.NewMemory())
			mustAppend(t, p, "a")
			for _, proposal := range test.there {
				if _, err := p.Append(t.Context(), proposal); err != nil {
					t.Fatal(err)
				}
			}
			foreseen := p.Preview(t.Context(), test.next)
			_, err := p.Append(t.Context(), test.next)
			for _, err := range []error{foreseen, err} {
				var older *OlderError
				errors.As(err, &older)
				if diff := cmp.Diff(test.err, older); diff != "" || (err == nil) != (test.err == nil) {
					t.Errorf("%v (-want +got)\n%s", err, diff)
				}
			}
			wantGenerations(t, p, test.want)
		})
	}
}

// Several pipelines move a pointer, and people do. What was built and tested
// before somebody else has moved it must not undo that.
func TestOvertakenPromotion(t *testing.T) {
	type move struct {
		minute   int64
		proposal Proposal
	}
	rollback := overruling(proposal("a")) // to 1:a
	rollback.Details.Message = "back to generation 1: the site is down"
	for _, test := range []struct {
		name  string
		there []move // besides 1:a, at minute 0
		next  Proposal
		want  string
		by    uint64 // what it was overtaken by
		why   string
	}{
		{name: "what was there when it began", there: []move{{10, proposal("b")}}, next: begun(11, "c", "update", 5), want: "3:c 2:b 1:a"},
		{name: "made in the same second", there: []move{{10, proposal("b")}}, next: begun(10, "c", "update", 5), want: "3:c 2:b 1:a"},
		{name: "a promotion of another pointer", there: []move{{10, begun(5, "b", "candidate", 12)}}, next: begun(4, "c", "update", 5),
			want: "2:b 1:a", by: 2, why: "promoted from generation 12 of candidate"},
		{name: "the same, before which the work began later", there: []move{{10, begun(3, "b", "candidate", 12)}}, next: begun(4, "c", "update", 5),
			want: "2:b 1:a", by: 2, why: "promoted from generation 12 of candidate"},
		{name: "the first of its pointer", there: nil, next: begun(-1, "c", "update", 5), want: "1:a", by: 1, why: "system a"},
		{name: "a put", there: []move{{10, begun(5, "b", "candidate", 12)}, {20, proposal("c")}}, next: begun(6, "d", "candidate", 13),
			want: "3:c 2:b 1:a", by: 3, why: "system c"},
		{name: "a rollback", there: []move{{10, begun(5, "b", "candidate", 12)}, {20, rollback}}, next: begun(5, "b", "candidate", 12),
			want: "3:a 2:b 1:a", by: 3, why: "back to generation 1: the site is down"},
		{name: "a rollback, before what comes next", there: []move{{10, begun(5, "b", "candidate", 12)}, {20, rollback}}, next: begun(21, "c", "candidate", 13),
			want: "4:c 3:a 2:b 1:a"},
		{name: "somebody else, but to the same", there: []move{{10, begun(5, "b", "candidate", 12)}}, next: begun(4, "b", "update", 5), want: "2:b 1:a"},
		{name: "somebody else, overruled", there: []move{{10, proposal("b")}}, next: overruling(begun(4, "c", "update", 5)), want: "3:c 2:b 1:a"},

		// Those of one pointer follow one another, however long each takes.
		{name: "one that began before the last one was promoted", there: []move{{10, begun(1, "b", "candidate", 12)}}, next: begun(5, "c", "candidate", 13),
			want: "3:c 2:b 1:a"},
		{name: "several", there: []move{{10, proposal("b")}, {20, begun(11, "c", "candidate", 1)}, {30, begun(12, "d", "candidate", 2)}}, next: begun(13, "f", "candidate", 3),
			want: "5:f 4:d 3:c 2:b 1:a"},
		{name: "several, before which is a put", there: []move{{10, proposal("b")}, {20, begun(11, "c", "candidate", 1)}, {30, begun(12, "d", "candidate", 2)}}, next: begun(9, "f", "candidate", 3),
			want: "4:d 3:c 2:b 1:a", by: 2, why: "system b"},

		// Unless somebody went back, on purpose.
		{name: "going back, before it began", there: []move{{10, begun(1, "b", "candidate", 12)}, {30, overruling(begun(0, "c", "candidate", 11))}}, next: begun(31, "d", "candidate", 13),
			want: "4:d 3:c 2:b 1:a"},
		{name: "going back", there: []move{{10, begun(1, "b", "candidate", 12)}, {30, overruling(begun(0, "c", "candidate", 11))}}, next: begun(29, "d", "candidate", 13),
			want: "3:c 2:b 1:a", by: 3, why: "promoted from generation 11 of candidate"},
		{name: "going back, from just that", there: []move{{10, begun(1, "b", "candidate", 12)}, {30, overruling(begun(0, "c", "candidate", 11))}}, next: begun(1, "b", "candidate", 12),
			want: "3:c 2:b 1:a", by: 3, why: "promoted from generation 11 of candidate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			clock := &clock{start}
			p := open(blob.NewMemory(), func(c *Config) { c.Now = clock.Now })
			first := mustAppend(t, p, "a").Generation
			for _, m := range test.there {
				clock.now = start.Add(time.Duration(m.minute) * time.Minute)
				if m.proposal.Details.Message == rollback.Details.Message {
					m.proposal.Details.Origin = must(first.Origin("web-1", public(ours)))
				}
				if _, err := p.Append(t.Context(), m.proposal); err != nil {
					t.Fatal(err)
				}
			}
			foreseen := p.Preview(t.Context(), test.next)
			clock.Advance(time.Hour)
			_, err := p.Append(t.Context(), test.next)
			for _, err := range []error{foreseen, err} {
				var overtaken *OvertakenError
				if errors.As(err, &overtaken) != (err != nil) || (err != nil) != (test.by != 0) {
					t.Fatalf("got %v, want to be overtaken by %d", err, test.by)
				}
				if err != nil && (overtaken.By != test.by || overtaken.Why != test.why) {
					t.Errorf("overtaken by %d (%q), want %d (%q): %v", overtaken.By, overtaken.Why, test.by, test.why, err)
				}
			}
			wantGenerations(t, p, test.want)
		})
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// The error says who was faster, and when.
func TestOvertakenError(t *testing.T) {
	clock := &clock{start.Add(time.Minute)}
	p := open(blob.NewMemory(), func(c *Config) { c.Now = clock.Now })
	mustAppend(t, p, "a")
	_, err := p.Append(t.Context(), promotion("b", "update", 5))
	wantError(t, err, `generation 1 (system a) was made at 2026-11-22T12:01:00Z, after the work on generation 5 of update had begun at 2026-11-22T12:00:00Z`)
}

// Candidates of another cache may be kept under the same name, with numbers of
// their own, which say nothing about the generations that a rollback goes back to.
func TestWentBack(t *testing.T) {
	for _, test := range []struct {
		name   string
		label  string
		origin func(third Generation) *Origin // the newest of 1:a 2:b 3:c
		want   uint64
	}{
		{"a put", "c", func(Generation) *Origin { return nil }, 0},
		{"a rollback", "c", func(third Generation) *Origin { return must(third.Origin("web-1", public(ours))) }, 3},
		{"a rollback that nobody signed", "c", func(Generation) *Origin { return &Origin{"web-1", 3, ""} }, 3},
		{"a promotion", "c", func(Generation) *Origin { return &Origin{"candidate", 3, "k:s"} }, 0},
		{"a namesake's with another path", "d", func(Generation) *Origin { return &Origin{"web-1", 3, ""} }, 0},
		{"a namesake's with the same path", "c", func(Generation) *Origin { return &Origin{"web-1", 3, "k:s"} }, 0},
		{"a namesake's with a number that we don't have yet", "d", func(Generation) *Origin { return &Origin{"web-1", 30, "k:s"} }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := open(blob.NewMemory())
			third := mustAppend(t, p, "a", "b", "c").Generation
			mustAppend(t, p, "b")
			proposal := overruling(proposal(test.label))
			proposal.Details.Origin = test.origin(third)
			outcome, err := p.Append(t.Context(), proposal)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := p.WentBack(mustRead(t, p), outcome.Generation)
			if got != test.want || ok != (test.want != 0) {
				t.Errorf("went back to %d (%v), want %d", got, ok, test.want)
			}
		})
	}
}

// A rollback by the namesake of a candidate's pointer is no promotion.
func TestPromotionAfterNamesakesRollback(t *testing.T) {
	p := open(blob.NewMemory())
	third := mustAppend(t, p, "a", "b", "c").Generation
	rollback := overruling(proposal("c"))
	rollback.Details.Origin = must(third.Origin("web-1", public(ours)))
	for _, next := range []Proposal{promotion("d", "web-1", 1), rollback, promotion("f", "web-1", 2)} {
		if _, err := p.Append(t.Context(), next); err != nil {
			t.Fatal(err)
		}
	}
	wantGenerations(t, p, "6:f 5:c 4:d 3:c 2:b 1:a")
	_, err := p.Append(t.Context(), promotion("d", "web-1", 1))
	wantError(t, err, "generation 2 of web-1 was promoted already, and 1 is older")
}

// What was gone back to may have left the history.
func TestWentBackFarAway(t *testing.T) {
	p := open(blob.NewMemory())
	fill(t, p, Keep+2)
	first, err := p.Find(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	rollback := overruling(proposal("1"))
	rollback.Details.Origin = must(first.Origin("web-1", public(ours)))
	outcome, err := p.Append(t.Context(), rollback)
	if err != nil {
		t.Fatal(err)
	}
	if number, ok := p.WentBack(mustRead(t, p), outcome.Generation); number != 1 || !ok {
		t.Errorf("went back to %d, %v", number, ok)
	}
}

// The work on a generation began when it says, but never after it was made; and
// it began no later for having been promoted.
func TestStarted(t *testing.T) {
	made := start.Unix()
	for _, test := range []struct{ said, want int64 }{
		{0, made}, {made - 3600, made - 3600}, {made + 3600, made}, {-1, made},
	} {
		p := open(blob.NewMemory())
		said := proposal("a")
		said.Details.Started = test.said
		outcome, err := p.Append(t.Context(), said)
		if err != nil {
			t.Fatal(err)
		}
		newest, _ := mustRead(t, p).Newest()
		if outcome.Generation.Started() != test.want || newest.Started() != test.want {
			t.Errorf("said to have begun at %d: got %d, and %d when read, want %d", test.said, outcome.Generation.Started(), newest.Started(), test.want)
		}
	}
}

// A put that isn't a promotion moves the pointer whoever was faster, and tells of
// what it has replaced.
func TestReplacedMeanwhile(t *testing.T) {
	clock := &clock{start}
	p := open(blob.NewMemory(), func(c *Config) { c.Now = clock.Now })
	mustAppend(t, p, "a")
	for i, test := range []struct {
		name     string
		proposal Proposal
		started  int64
		want     uint64
	}{
		{"began before", proposal("b"), start.Unix() - 1, 1},
		{"began later", proposal("c"), start.Unix() + 60, 0},
		{"doesn't say", proposal("d"), 0, 0},
		{"a promotion of the same pointer", promotion("f", "candidate", 1), start.Unix() + 1e6, 0},
		{"and the next one", promotion("g", "candidate", 2), start.Unix() + 3*60, 0},
	} {
		test.proposal.Details.Started = test.started
		clock.Advance(time.Minute)
		outcome, err := p.Append(t.Context(), test.proposal)
		if err != nil {
			t.Fatal(err)
		}
		var got uint64
		if outcome.Replaced != nil {
			got = outcome.Replaced.Number
		}
		if got != test.want || outcome.Generation.Number != uint64(i+2) {
			t.Errorf("%s: generation %d has replaced %d, want %d", test.name, outcome.Generation.Number, got, test.want)
		}
	}
}

// Another pipeline promotes between reading and writing.
func TestOvertakenInARace(t *testing.T) {
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	store := before(memory, object, 1, func() {
		later := open(memory, func(c *Config) { c.Now = (&clock{start.Add(time.Minute)}).Now })
		if _, err := later.Append(t.Context(), begun(1, "b", "candidate", 12)); err != nil {
			t.Error(err)
		}
	})
	_, err := open(store).Append(t.Context(), promotion("c", "update", 4))
	wantError(t, err, "generation 2 (promoted from generation 12 of candidate) was made at 2026-11-22T12:01:00Z, after")
	wantGenerations(t, open(memory), "2:b 1:a")
}

// A later generation is promoted between reading and writing.
func TestOlderPromotionInARace(t *testing.T) {
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	store := before(memory, object, 1, func() {
		if _, err := open(memory).Append(t.Context(), promotion("b", "candidate", 5)); err != nil {
			t.Error(err)
		}
	})
	_, err := open(store).Append(t.Context(), promotion("c", "candidate", 4))
	wantError(t, err, "generation 5 of candidate was promoted already, and 4 is older")
	wantGenerations(t, open(memory), "2:b 1:a")
}

// An origin is only what an accepted key has signed as a generation of that
// pointer, and names the signature that says so.
func TestOrigin(t *testing.T) {
	p := open(blob.NewMemory(), signedBy(strangers, ours), accepting(strangers, ours))
	g := mustAppend(t, p, "a").Generation
	got, err := g.Origin("web-1", public(ours))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&Origin{"web-1", 1, g.Signatures[1].String()}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	_, err = g.Origin("web-2", public(ours))
	wantError(t, err, "generation 1 of web-2, as it is there, is not signed by an accepted key (cache.example.org-1)")
	_, err = g.Origin("web-1", public(next))
	wantError(t, err, "is not signed by an accepted key (cache.example.org-2)")
}

// Preview writes nothing.
func TestPreview(t *testing.T) {
	memory := blob.NewMemory()
	p := open(memory)
	if err := p.Preview(t.Context(), proposal("a")); err != nil {
		t.Error(err)
	}
	if history := mustRead(t, p); len(history.Generations) != 0 {
		t.Errorf("it has written %v", history.Generations)
	}
	wantError(t, open(memory, signedBy()).Preview(t.Context(), proposal("a")), "there is no key to sign")
}
