package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// What fails on fifty hosts for one reason is told once; whom it keeps from
// moving, in the last line.
func TestReportFailures(t *testing.T) {
	var log bytes.Buffer
	c := console.New(&log, os.Getenv, nil)
	var all []*host
	for _, h := range []HostResult{
		{Name: "web-1", Err: hint.With(errors.New("glibc can't be built"), "build it")},
		{Name: "web-2"},
		{Name: "web-3", Err: errors.New("it is broken")},
		{Name: "web-4", Err: hint.With(errors.New("glibc can't be built"), "build it")},
	} {
		all = append(all, &host{HostResult: h})
	}
	err := reportFailures(t.Context(), c, all)
	if want := "failed: 3 of 4 hosts: web-1, web-3, web-4"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
	want := "error: web-1, web-4: glibc can't be built\nhint: build it\nerror: web-3: it is broken\n"
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("the log (-want +got)\n%s", diff)
	}

	// An interruption is none of the hosts' failures.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	log.Reset()
	if err := reportFailures(ctx, c, all); !errors.Is(err, context.Canceled) || log.Len() > 0 {
		t.Errorf("interrupted, it says %v, and\n%s", err, &log)
	}
}
