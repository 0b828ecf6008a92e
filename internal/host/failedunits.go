package host

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// unitsFailed is what NixOS's activation exits with if it is done, but units have
// failed to start.
const unitsFailed = 4

// failedUnits are those of the machine, none where systemd doesn't run.
func (r *run) failedUnits(ctx context.Context) []string {
	if _, ok := r.units.(systemdUnits); !ok {
		return nil
	}
	out, err := command(ctx, nil, "systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full")
	if err != nil {
		r.log("%v", err)
		return nil
	}
	var units []string
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 0 {
			units = append(units, fields[0])
		}
	}
	return units
}

// blameUnits says which units have failed that had not before, with the last
// lines of their logs. It is "" if there are none.
func (r *run) blameUnits(ctx context.Context, before []string) string {
	var parts []string
	for _, unit := range r.failedUnits(ctx) {
		if slices.Contains(before, unit) {
			continue
		}
		out, err := command(ctx, nil, "journalctl", "--no-pager", "--output=cat", "--lines=5", "--unit="+unit)
		if err != nil {
			out = err.Error()
		}
		parts = append(parts, fmt.Sprintf("%s has failed: %s", unit, strings.ReplaceAll(lastLines(out), "\n", " | ")))
	}
	return strings.Join(parts, "; ")
}
