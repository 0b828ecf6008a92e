package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// Units keep what must outlive this process, and be found by the next one. A
// unit has a name, by which there is one at most.
//
// There are two: systemd's transient units ([systemdUnits]), for machines where
// it is the first process; and processes of our own ([processUnits]) for others,
// such as containers. Of both is demanded that a unit lives on when this process
// is killed, that it gets no credential, and that End leaves nothing of it.
type Units interface {
	// Run runs a command in a unit of that name, which ends one that there may be, to
	// its end, its output going
	// to a file that is emptied first. A failure is a [*commandError]. If ctx
	// ends, the unit is ended, too.
	Run(ctx context.Context, name, output string, env []string, argv ...string) error

	// Later starts a command in a unit of that name, which ends one that there may be,
	// when some time is over.
	Later(ctx context.Context, name string, after time.Duration, argv ...string) error

	// End ends the unit of that name, whoever has begun it, and returns when
	// nothing is left of it. It is no error if there is none.
	End(ctx context.Context, name string) error
}

// The names of our units.
const (
	activationUnit = "nixos-closure-activation"
	deadlineUnit   = "nixos-closure-deadline"
)

const (
	unitsSystemd = "systemd"
	unitsProcess = "process"
)

// openUnits returns the Units that a setting names, or those of this machine.
// self is this program.
func openUnits(setting, stateDir, self string) (Units, error) {
	_, err := os.Stat("/run/systemd/system") // as sd_booted(3) has it
	switch {
	case setting == unitsSystemd && err != nil:
		return nil, hint.With(errors.New("systemd doesn't run this machine"), "set units to process, or leave it away")
	case setting == unitsProcess, err != nil:
		return &processUnits{filepath.Join(stateDir, "units"), self}, nil
	default:
		return systemdUnits{}, nil
	}
}

// systemdUnits are transient units of the system's systemd. What they have begun
// is a child of the first process: no end of ours, no upgrade of this program,
// and no network that goes away reaches it.
type systemdUnits struct{}

func (systemdUnits) Run(ctx context.Context, name, output string, env []string, argv ...string) error {
	if err := (systemdUnits{}).End(ctx, name); err != nil {
		return err
	}
	if err := os.WriteFile(output, nil, 0o644); err != nil {
		return err
	}
	args := []string{"systemd-run", "--quiet", "--collect", "--wait", "--no-ask-password", "--service-type=exec",
		"--unit=" + name, "--property=StandardOutput=append:" + output, "--property=StandardError=inherit"}
	for _, variable := range append(environment(), env...) {
		args = append(args, "--setenv="+variable)
	}
	_, err := command(ctx, nil, append(append(args, "--"), argv...)...)
	if ctx.Err() != nil {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		return errors.Join(err, systemdUnits{}.End(ending, name))
	}
	if err != nil && isActive(ctx, name) {
		// It is systemd-run that has failed: what is activated may restart the bus.
		// How the unit ends can't be known then; what it leaves is examined anyway.
		for isActive(ctx, name) {
			if err := sleep(ctx, time.Second); err != nil {
				return errors.Join(err, systemdUnits{}.End(context.WithoutCancel(ctx), name))
			}
		}
		return nil
	}
	return withOutput(err, output, argv)
}

// isActive says whether a unit is at work.
func isActive(ctx context.Context, name string) bool {
	_, err := command(ctx, nil, "systemctl", "--quiet", "is-active", name+".service")
	return err == nil
}

func (systemdUnits) Later(ctx context.Context, name string, after time.Duration, argv ...string) error {
	if err := (systemdUnits{}).End(ctx, name); err != nil {
		return err
	}
	args := []string{"systemd-run", "--quiet", "--collect", "--no-ask-password", "--unit=" + name,
		fmt.Sprintf("--on-active=%dms", after.Milliseconds()), "--timer-property=AccuracySec=1s"}
	for _, variable := range environment() {
		args = append(args, "--setenv="+variable)
	}
	_, err := command(ctx, nil, append(append(args, "--"), argv...)...)
	return err
}

func (systemdUnits) End(ctx context.Context, name string) error {
	var failures []error
	for _, unit := range []string{name + ".timer", name + ".service"} {
		_, err := command(ctx, nil, "systemctl", "stop", unit)
		if exit := new(exec.ExitError); errors.As(err, &exit) && exit.ExitCode() == 5 {
			continue // it isn't loaded
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// endTimeout is how long ending a unit may take: systemd itself waits 90 s for a
// service to stop before it kills it.
const endTimeout = 2 * time.Minute

// withOutput is the failure of a command whose output is in a file.
func withOutput(err error, output string, argv []string) error {
	if err == nil {
		return nil
	}
	failure := &commandError{argv: argv, err: err}
	if inner := new(commandError); errors.As(err, &inner) {
		failure.err = inner.err
	}
	if data, readErr := os.ReadFile(output); readErr == nil {
		failure.output = strings.ToValidUTF8(lastLines(string(data[max(0, len(data)-maxOutput):])), "�")
	}
	return failure
}

// exitCode is what a command exited with, or -1 if it didn't.
func exitCode(err error) int {
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}
