package command

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/host"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Tell what this machine runs, what it should run, and why it doesn't",
		Long: `Tell what this machine runs, what its pointer said when it was read last, what
was proven here, and what the last run of follow came to. Nothing is read but files
of this machine.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			config, err := a.hostConfig()
			if err != nil {
				return err
			}
			status, err := (&host.Host{Config: config}).Status()
			if err != nil {
				return wrongStateDir(err, config.StateDir)
			}
			if a.asJSON {
				return a.printJSON(status)
			}
			return a.printTable(describeHost(status))
		},
	}
}

// describeHost is a status for a person.
func describeHost(s host.Status) [][]string {
	rows := [][]string{{"host", s.Host}, {"pointer", string(s.Pointer)}}
	add := func(name string, number uint64, path nix.StorePath) {
		text := path.String()
		if number > 0 {
			text = fmt.Sprintf("generation %d, %s", number, path)
		}
		if path.IsZero() {
			text = "-"
		}
		rows = append(rows, []string{name, text})
	}
	add("wants", s.Wanted.Number, s.Wanted.Path)
	add("runs", s.RunningGeneration, s.Running)
	add("boots", s.BootsGeneration, s.Boots)
	if s.ProvenGeneration > 0 {
		rows = append(rows, []string{"proven", "generation " + strconv.FormatUint(s.ProvenGeneration, 10)})
	}
	for _, failure := range s.Failed {
		rows = append(rows, []string{"failed", fmt.Sprintf("generation %d, on %s: %s", failure.Number, console.Time(failure.At), failure.Reason)})
	}
	if s.Trial != nil {
		rows = append(rows, []string{"trial", fmt.Sprintf("generation %d, under way or left by a run that has ended", s.Trial.Number)})
	}
	if s.Hold != nil {
		rows = append(rows, []string{"held", fmt.Sprintf("until %s: %s", s.Hold.Until.UTC().Format(time.DateTime+" UTC"), s.Hold.Reason)})
	}
	if s.PublicKey != "" {
		rows = append(rows, []string{"reports as", s.PublicKey})
	}
	if s.Last.Result != "" {
		rows = append(rows, []string{"last run", fmt.Sprintf("%s, %s: %s", console.Time(s.Last.At), s.Last.Result, s.Last.Sentence)})
	} else {
		rows = append(rows, []string{"last run", "none yet"})
	}
	return rows
}
