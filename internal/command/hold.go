package command

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/host"
)

func newHold(a *app) *cobra.Command {
	var until, reason string
	cmd := &cobra.Command{
		Use:   "hold --until WHEN --reason WHY",
		Short: "Keep this machine from moving, for a while",
		Long: `Keep this machine from trying a newer generation until some time, such as 24h or
7d from now, or 2026-12-24T18:00:00Z. It goes on reading its pointer. A trial that
is under way is finished. 'release' lets it move before that.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			end, err := parseUntil(until, time.Now())
			if err != nil {
				return hint.Usage(err)
			}
			if reason == "" {
				return hint.Usage(hint.With(errors.New("why?"), "--reason is for whoever wonders that this machine doesn't move"))
			}
			config, err := a.hostConfig()
			if err != nil {
				return err
			}
			return wrongStateDir(host.WriteHold(config.StateDir, host.Hold{Until: end, Reason: reason}), config.StateDir)
		},
	}
	cmd.Flags().StringVar(&until, "until", "", "`when` it ends, such as 24h, 7d or 2026-12-24T18:00:00Z")
	cmd.Flags().StringVar(&reason, "reason", "", "`why`, for whoever wonders")
	return cmd
}

// parseUntil reads a time, or how long it is from now to it.
func parseUntil(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, hint.With(errors.New("until when?"), "a hold always ends: say by --until when, such as 24h")
	}
	end, err := time.Parse(time.RFC3339, s)
	if err != nil {
		var d host.Duration
		if d.UnmarshalText([]byte(s)) != nil {
			return time.Time{}, hint.With(fmt.Errorf("--until: %q is neither a time nor a duration", s), "write 24h, 7d or 2026-12-24T18:00:00Z")
		}
		end = now.Add(time.Duration(d)).Truncate(time.Second)
	}
	if !end.After(now) {
		return time.Time{}, fmt.Errorf("--until: %s is over", s)
	}
	return end, nil
}

func newRelease(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "release",
		Short: "Let this machine move again that was held",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			config, err := a.hostConfig()
			if err != nil {
				return err
			}
			held, err := host.Release(config.StateDir)
			if err == nil && !held {
				a.console.Say("it was not held")
			}
			return wrongStateDir(err, config.StateDir)
		},
	}
}
