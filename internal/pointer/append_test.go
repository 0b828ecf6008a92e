package pointer

import (
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

func TestAppend(t *testing.T) {
	p := open(blob.NewMemory())
	if history := mustRead(t, p); len(history.Generations) != 0 {
		t.Errorf("a pointer that was never written has generations: %v", history)
	}
	for _, step := range []struct {
		letter string
		moved  bool
		want   string
	}{
		{"a", true, "1:a"},
		{"a", false, "1:a"},
		{"b", true, "2:b 1:a"},
		{"a", true, "3:a 2:b 1:a"}, // going back is going on
		{"a", false, "3:a 2:b 1:a"},
	} {
		outcome := mustAppend(t, p, step.letter)
		if outcome.Moved != step.moved || outcome.Generation.Path != path(step.letter) {
			t.Errorf("%s: outcome is %+v", step.letter, outcome)
		}
		wantGenerations(t, p, step.want)
	}
}
