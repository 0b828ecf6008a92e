package resource

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// What fails on fifty hosts for one reason is told once; whom it keeps from
// moving, in the last line.
func TestLeftBehind(t *testing.T) {
	var log bytes.Buffer
	f := &fleet{
		publisher: &publisher{Step: Step{Console: NewConsole(&log, os.Getenv)}},
		hosts: []*host{
			{name: "web-1", err: hint.With(errors.New("glibc can't be built"), "build it")},
			{name: "web-2"},
			{name: "web-3", err: errors.New("it is broken")},
			{name: "web-4", err: hint.With(errors.New("glibc can't be built"), "build it")},
		},
	}
	err := f.left(t.Context())
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
	if err := f.left(ctx); !errors.Is(err, context.Canceled) || log.Len() > 0 {
		t.Errorf("interrupted, it says %v, and\n%s", err, &log)
	}
}
