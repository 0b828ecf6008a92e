package hint

import (
	"slices"
	"testing"
)

func TestFew(t *testing.T) {
	for _, test := range []struct {
		names []string
		want  string
	}{
		{nil, ""},
		{[]string{"web-1", "web-2"}, "web-1, web-2"},
		{slices.Repeat([]string{"a"}, 20), "a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a"},
		{slices.Repeat([]string{"a"}, 22), "a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a, a and 2 more"},
	} {
		if got := Few(test.names); got != test.want {
			t.Errorf("%d names: want %q, got %q", len(test.names), test.want, got)
		}
	}
}
