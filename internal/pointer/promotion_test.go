package pointer

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

// promotion proposes the system of a label, which was tested as a generation of
// another pointer.
func promotion(label string, origin Name, generation uint64) Proposal {
	p := proposal(label)
	p.Details.Origin = &Origin{Pointer: origin, Generation: generation, Signature: "k:s"}
	return p
}

func TestOlderPromotion(t *testing.T) {
	allowed := promotion("c", "candidate", 3)
	allowed.AllowOlder = true
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
