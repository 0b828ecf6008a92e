package hint

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOf(t *testing.T) {
	base := errors.New("no such bucket")
	for _, test := range []struct {
		name string
		err  error
		want []string
	}{
		{"nil", nil, nil},
		{"none", base, nil},
		{"wrapped", fmt.Errorf("reading: %w", With(base, "create %s", "it")), []string{"create it"}},
		{"outermost first", With(fmt.Errorf("a: %w", With(base, "inner")), "outer"), []string{"outer", "inner"}},
		{"joined", errors.Join(With(base, "one"), With(base, "two")), []string{"one", "two"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, Of(test.err)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if test.err != nil && !errors.Is(test.err, base) {
				t.Error("the advice hides the error")
			}
		})
	}
	if With(nil, "advice") != nil {
		t.Error("advice made an error of nil")
	}
}
