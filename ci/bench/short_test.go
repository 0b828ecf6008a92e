package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// How many requests each of our programs makes, whole, to a real server. They
// are what time is spent on when the server is far away.
func TestRequests(t *testing.T) {
	l := testLab(t)
	const paths = 100
	sizes := slices.Repeat([]int64{10_000}, paths)
	today := made(t, l, synthetic{name: "today", sizes: sizes})
	tomorrow := made(t, l, synthetic{name: "tomorrow", after: "today", sizes: sizes})
	s, err := l.open(t.Context(), versitygw, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	var v version
	for _, step := range []struct {
		what string
		do   func() (sample, error)
		most int
	}{
		{"a push into an empty cache", func() (got sample, err error) {
			got, v, err = l.out(t.Context(), s, today, zstd)
			return got, err
		}, 25 + 2*paths},
		{"a push of what is there", func() (sample, error) { return l.ourPush(t.Context(), s, today, zstd) }, 4},
		{"a check", func() (sample, error) { return l.check(t.Context(), s, v) }, 1},
		{"a push of one new path", func() (sample, error) { return l.ourPush(t.Context(), s, tomorrow, zstd) }, 12 + 3*1},
		{"a get", func() (sample, error) { return l.in(t.Context(), s, v, "rootfs", l.scratch) }, paths + 7},
		{"a get of the small files", func() (sample, error) { return l.in(t.Context(), s, v, "none", l.scratch) }, 2},
	} {
		got, err := step.do()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s took %d requests, %d at once", step.what, got.Requests, got.AtOnce)
		if got.Requests > step.most {
			t.Errorf("%s took %d requests, and may take %d: %v", step.what, got.Requests, step.most, got.Kinds)
		}
	}
}

// How many round trips our programs wait for one after the other: whatever else a
// small put far from its server does, it takes so long. (The delay is such that
// what is asked for side by side is, on a busy machine, too.)
func TestRequestsInARow(t *testing.T) {
	l := testLab(t)
	sizes := slices.Repeat([]int64{10_000}, 10)
	today := made(t, l, synthetic{name: "today", sizes: sizes})
	tomorrow := made(t, l, synthetic{name: "tomorrow", after: "today", sizes: sizes})
	s, err := l.open(t.Context(), versitygw, 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	var v version
	for _, step := range []struct {
		what string
		do   func() (sample, error)
		most int
	}{
		{"", func() (got sample, err error) {
			got, v, err = l.out(t.Context(), s, today, zstd)
			return got, err
		}, 0},
		// The history and its copy; the manifest of what the pointer leads to; whether
		// it is known what changed.
		{"a push of what is there", func() (sample, error) { return l.ourPush(t.Context(), s, today, zstd) }, 3},
		// The history and its copy; the manifest of what the pointer leads to; that of
		// what is pushed, beside the lease; the narinfo; the NAR, its narinfo, the
		// manifest, the history, its copy, and a last look at the history; the end of
		// the lease.
		{"a push of one new path", func() (sample, error) { return l.ourPush(t.Context(), s, tomorrow, zstd) }, 11},
		{"a get of the small files", func() (sample, error) { return l.in(t.Context(), s, v, "none", l.scratch) }, 2},
	} {
		got, err := step.do()
		if err != nil {
			t.Fatal(err)
		}
		if step.most == 0 {
			continue
		}
		t.Logf("%s took %d requests in a row", step.what, got.InARow)
		if got.InARow > step.most {
			t.Errorf("%s took %d requests in a row, and may take %d", step.what, got.InARow, step.most)
		}
	}
}

// How much memory a push and a get take at most, whatever they push and get: a
// NAR that is larger than that, and many that are read at once.
func TestMemory(t *testing.T) {
	l := testLab(t)
	large := made(t, l, synthetic{name: "large", dense: true, sizes: append([]int64{300 << 20}, slices.Repeat([]int64{7 << 20}, 16)...)})
	s, err := l.open(t.Context(), versitygw, 0)
	if err != nil {
		t.Fatal(err)
	}
	pushed, v, err := l.out(t.Context(), s, large, zstd)
	if err != nil {
		t.Fatal(err)
	}
	fetched, err := l.in(t.Context(), s, v, "rootfs", l.scratch)
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]sample{"a push": pushed, "a get": fetched} {
		t.Logf("%s took %d MiB", what, got.Peak>>20)
		if got.Peak > 256<<20 {
			t.Errorf("%s took %d MiB of memory, and may take 256", what, got.Peak>>20)
		}
	}
}

// testLab is a lab with the programs as they are now.
func testLab(t *testing.T) *lab {
	t.Helper()
	nixtest.Current(t) // or skip
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	programs, err := buildPrograms()
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLab(repo, t.TempDir(), nixtest.TempDir(t), programs, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	if _, err := os.Stat(l.server(versitygw)); err != nil {
		if os.Getenv("NIXOS_CLOSURE_TEST_REQUIRE") == "1" {
			t.Fatalf("%v: run ci/servers/build", err)
		}
		t.Skipf("%v: run ci/servers/build", err)
	}
	return l
}

func made(t *testing.T, l *lab, s synthetic) closure {
	t.Helper()
	c, err := l.made(s)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}
