package pointer

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// A name that was mistyped is told from one that is new.
func TestPointerThatIsNotThere(t *testing.T) {
	for _, test := range []struct {
		name  string
		there []string // objects
		want  string
	}{
		{"nothing", nil, "put it first; if it was there before, somebody has deleted it, or the source names another cache or pointer now"},
		{"a near one", []string{"pointers/db.json", "pointers/web-l", "pointers/web-l.json"}, "did you mean web-l?"},
		{"others", []string{"pointers/.conditional-writes", "pointers/database", "pointers/database.json", "pointers/database.d/1.json", "pointers/mail.json"},
			"the pointers in there are database, mail"},
		{"objects of no pointer", []string{"pointers/web-2", "pointers/web-2.d/1.json", "pointers/-.json", "narinfo"},
			"put it first; if it was there before, somebody has deleted it, or the source names another cache or pointer now"},
	} {
		t.Run(test.name, func(t *testing.T) {
			store := blob.NewMemory()
			for _, key := range test.there {
				put(t, store, key, "{}")
			}
			_, err := open(store).Find(t.Context(), 0)
			if !errors.Is(err, ErrGone) || !slices.Equal(hint.Of(err), []string{test.want}) {
				t.Errorf("got %v with hints %q, want %q", err, hint.Of(err), test.want)
			}
		})
	}
}

// Whoever may read pointers may not be allowed to list them; and of those that have
// too many, not all are looked at.
func TestPointerThatIsNotThereAmongMany(t *testing.T) {
	yielded := 0
	_, err := open(unbounded{blob.NewMemory(), &yielded}).Find(t.Context(), 1)
	if !errors.Is(err, ErrGone) || len(hint.Of(err)) != 1 || yielded > 20000 {
		t.Errorf("got %v with hints %q after %d objects", err, hint.Of(err), yielded)
	}
	_, err = open(unlistable{blob.NewMemory()}).Find(t.Context(), 1)
	if !errors.Is(err, ErrGone) || len(hint.Of(err)) != 1 {
		t.Errorf("got %v with hints %q", err, hint.Of(err))
	}
}

// An unbounded store lists without end.
type unbounded struct {
	blob.Store
	yielded *int
}

func (e unbounded) List(context.Context, string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		for *e.yielded++; yield(blob.Info{Key: "pointers/a.d/1.json"}, nil); *e.yielded++ {
		}
	}
}

// An unlistable store lists nothing.
type unlistable struct{ blob.Store }

func (unlistable) List(context.Context, string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) { yield(blob.Info{}, blob.ErrPermission) }
}
