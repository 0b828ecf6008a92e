package nixcmd

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What several say at once comes in whole lines, each with a name.
func TestLabelled(t *testing.T) {
	var log bytes.Buffer
	store := &Store{log: &log}
	one, other := store.Labelled("web-1"), store.Labelled("web-2")
	fmt.Fprint(one.log, "warning: a ")
	fmt.Fprint(other.log, "first\nsecond\nthi")
	fmt.Fprint(one.log, "line\n")
	fmt.Fprint(other.log, "rd\n")
	if diff := cmp.Diff("web-2> first\nweb-2> second\nweb-1> warning: a line\nweb-2> third\n", log.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
