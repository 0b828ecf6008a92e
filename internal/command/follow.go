package command

import (
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/host"
)

func newFollow(a *app) *cobra.Command {
	var request host.Request
	var mode string
	cmd := &cobra.Command{
		Use:   "follow [POINTER]",
		Short: "Make this machine run what its pointer says, once that is proven here",
		Long: `Make one run of a host that follows its pointer: read it, and if there is a newer
generation, fetch it, activate it, examine it, and then make it what the machine
boots, or go back to the system that ran before. docs/hosts.md tells the whole story.
A timer starts this again and again; it can be killed at any time.

What is printed is one sentence, or the outcome in JSON with --json.

Exit status: 0 the newest generation runs (nothing-new, switched, tested), was shown
(dry-activate), or the machine reboots (booting); 1 the run itself has failed; 2 wrong arguments or settings;
10 waiting: it will be tried later; 11 held; 12 drift: somebody has changed the
system by hand; 13 refused: the newest generation may not be followed; 14 it has
failed here, and the old system runs; 15 inconclusive: it could not be judged, and
the old system runs; 16 stranded: the old system could not be activated; 17
unreachable: the pointer or the closure could not be read.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := pointerArg(args)
			if err != nil {
				return err
			}
			h, err := a.host(cmd.Context(), name)
			if err != nil {
				return err
			}
			if mode != "" {
				if h.Config, err = h.Config.WithMode(host.Mode(mode)); err != nil {
					return hint.Usage(err)
				}
			}
			outcome, err := h.Follow(cmd.Context(), request)
			if err != nil {
				return wrongStateDir(err, h.Config.StateDir)
			}
			notify("STATUS=" + outcome.Sentence)
			if a.asJSON {
				err = a.printJSON(outcome)
			} else {
				_, err = fmt.Fprintln(a.stdout, printable(outcome.Sentence))
			}
			for _, advice := range outcome.Hints {
				a.console.Say("hint: %s", advice)
			}
			if err != nil || outcome.Result.Status() == 0 {
				return err
			}
			return followed{outcome}
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&request.Now, "now", false, "wait for nothing: not for this host's turn, a pause or a hold, nor because somebody has changed the system by hand")
	flags.BoolVar(&request.Retry, "retry", false, "try a generation again that has failed here")
	flags.BoolVar(&request.TrustOnFirstUse, "trust-on-first-use", false, "accept a pointer of which nothing is remembered here")
	flags.StringVar(&mode, "mode", "", "`what` to do this time: switch, boot, test or dry-activate")
	cmd.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"switch", "boot", "test", "dry-activate"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// A followed run has come to an outcome that has been told, and has a status of
// its own.
type followed struct{ outcome host.Outcome }

func (f followed) Error() string { return f.outcome.Sentence }

// notify tells systemd something about this process, where it wants to know
// (sd_notify(3)).
func notify(what string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.Write([]byte(what))
}
