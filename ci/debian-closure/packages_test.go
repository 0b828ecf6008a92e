package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every reference is to an earlier package; alternatives, virtual packages and
// circles are resolved; what wasn't downloaded is left out.
func TestSorted(t *testing.T) {
	packages := []debian{
		{name: "a", depends: [][]string{{"missing", "b"}, {"mail"}}},
		{name: "b", depends: [][]string{{"c"}}},
		{name: "c", depends: [][]string{{"a"}, {"missing"}, {"c"}}},
		{name: "exim", provides: []string{"mail"}},
	}
	var got [][]string
	for _, n := range sorted(packages) {
		got = append(got, append([]string{n.name}, n.references...))
	}
	want := [][]string{{"c"}, {"b", "c"}, {"exim"}, {"a", "b", "exim"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages and their references (-want +got):\n%s", diff)
	}
}

func TestPackageNames(t *testing.T) {
	got := packageNames("libc6 (>= 2.36), perl:any,, libssl3", ",")
	if diff := cmp.Diff([]string{"libc6", "perl", "libssl3"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
