package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// A finding is what a check has found.
type finding struct {
	name     string
	required bool
	err      error // nil is green
}

// The checks that every host has, besides those of its settings. Their names are
// in the state and in reports.
const (
	connectivityCheck = "connection to the cache"
	watchCheck        = "unit " // and its name
)

// checkPause is between two tries of a check that is red.
const checkPause = time.Second

// examine runs all checks, side by side, each until it is green or its time is
// over, and returns what they found, in the order of the settings.
func (r *run) examine(ctx context.Context) []finding {
	type check struct {
		finding
		timeout time.Duration
		try     func(context.Context) error
	}
	var checks []check
	add := func(name string, required bool, timeout time.Duration, try func(context.Context) error) {
		checks = append(checks, check{finding{name: name, required: required}, timeout, try})
	}
	for _, group := range []struct {
		checks   []Check
		required bool
	}{{r.config.Health.Required, true}, {r.config.Health.Wanted, false}} {
		for _, c := range group.checks {
			add(c.Name, group.required, time.Duration(c.Timeout), func(ctx context.Context) error {
				_, err := command(ctx, nil, c.Command...)
				return err
			})
		}
	}
	patience := time.Duration(r.config.Health.Patience)
	if r.config.Health.Connectivity {
		add(connectivityCheck, true, patience, r.host.Reach)
	}
	for _, unit := range r.config.Health.Watch {
		add(watchCheck+unit, true, patience, func(ctx context.Context) error {
			_, err := unitInvocation(ctx, unit)
			return err
		})
	}
	findings := make([]finding, len(checks))
	var group sync.WaitGroup
	for i, c := range checks {
		group.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("it took longer than %s", c.timeout))
			defer cancel()
			findings[i] = c.finding
			findings[i].err = r.untilGreen(ctx, c.try)
		})
	}
	group.Wait()
	return findings
}

// untilGreen tries until it succeeds or ctx ends, and returns the last failure.
func (r *run) untilGreen(ctx context.Context, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if r.host.pause(ctx, checkPause) != nil {
			return err
		}
	}
}

// soak waits, and then looks whether all is still as it was: the checks green,
// and no watched unit restarted.
func (r *run) soak(ctx context.Context) ([]finding, error) {
	before := r.invocations(ctx)
	if err := r.host.sleep(ctx, time.Duration(r.config.Health.Soak)); err != nil {
		return nil, err
	}
	findings := r.examine(ctx)
	after := r.invocations(ctx)
	for unit, invocation := range before {
		if after[unit] == invocation {
			continue
		}
		i := slices.IndexFunc(findings, func(f finding) bool { return f.name == watchCheck+unit })
		if findings[i].err == nil {
			findings[i].err = errors.New("it was restarted after it had been well")
		}
	}
	return findings, ctx.Err()
}

// invocations are those of the watched units that run.
func (r *run) invocations(ctx context.Context) map[string]string {
	invocations := map[string]string{}
	for _, unit := range r.config.Health.Watch {
		if id, err := unitInvocation(ctx, unit); err == nil {
			invocations[unit] = id
		}
	}
	return invocations
}

// unitInvocation asks systemd for a unit that has to be active. The answer
// changes whenever it is started.
func unitInvocation(ctx context.Context, unit string) (string, error) {
	out, err := command(ctx, nil, "systemctl", "show", "--property=ActiveState,InvocationID", "--", unit)
	if err != nil {
		return "", err
	}
	values := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[name] = value
	}
	if values["ActiveState"] != "active" {
		return "", fmt.Errorf("it is %s", values["ActiveState"])
	}
	return values["InvocationID"], nil
}

// red are the names of the required checks that are red, without those of a
// baseline.
func red(findings []finding, baseline []string) []string {
	var names []string
	for _, f := range findings {
		if f.required && f.err != nil && !slices.Contains(baseline, f.name) {
			names = append(names, f.name)
		}
	}
	return names
}

// describe says what is red among findings, for a sentence.
func describe(findings []finding, names []string) string {
	var parts []string
	for _, f := range findings {
		if f.err != nil && slices.Contains(names, f.name) {
			parts = append(parts, fmt.Sprintf("%s is red (%v)", f.name, f.err))
		}
	}
	return strings.Join(parts, "; ")
}
