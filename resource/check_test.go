package resource

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

func TestVersionsSince(t *testing.T) {
	path := func(n uint64) nix.StorePath {
		p, err := nix.ParseBaseName(fmt.Sprintf("00bgd045z0d4icpbc2yyz4gx48ak44la-system-%d", n))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	history := new(pointer.History)
	for _, n := range []uint64{9, 8, 6, 5} { // 7 is not there
		history.Generations = append(history.Generations, pointer.Generation{Number: n, Path: path(n)})
	}
	for _, test := range []struct {
		name  string
		given *Version
		want  []uint64
	}{
		{"none", nil, []uint64{9}},
		{"the newest", &Version{9, path(9)}, []uint64{9}},
		{"an older one", &Version{6, path(6)}, []uint64{6, 8, 9}},
		{"the oldest", &Version{5, path(5)}, []uint64{5, 6, 8, 9}},
		{"a generation alone", &Version{Generation: 8}, []uint64{8, 9}},
		{"older than the history", &Version{2, path(2)}, []uint64{5, 6, 8, 9}},
		{"newer than the history", &Version{10, path(10)}, []uint64{9}},
		{"another path", &Version{8, path(1)}, []uint64{9}},
		{"missing in between", &Version{7, path(7)}, []uint64{9}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var want []Version
			for _, n := range test.want {
				want = append(want, Version{n, path(n)})
			}
			if diff := cmp.Diff(want, versionsSince(test.given, history), cmp.Comparer(func(a, b nix.StorePath) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	if got := versionsSince(&Version{3, path(3)}, new(pointer.History)); got == nil || len(got) != 0 {
		t.Errorf("of an empty history: got %#v, want an empty list, not null", got)
	}
}
