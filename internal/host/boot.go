package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A system that boots otherwise than the one that runs is tried by a boot, if the
// machine may be rebooted: it is booted once, while the old one stays the default.
// Whatever happens to it, the next boot is one of the old system. The first run in
// that boot finds the trial in the state, and examines the system; only then it is
// made the default, or the machine is rebooted to go back.
//
// It is done by kexec, which touches no boot file. So no power cut, no reset and
// no panic leads anywhere but to the old system. What doesn't come back by itself
// is a new system that hangs without a panic, or that doesn't start us: against
// the first there is a watchdog, and the second is refused beforehand.

// inBoot says whether a boot is not the one that the trial was begun in, but one
// that it may have led to.
func (t *Trial) inBoot(boot string) bool { return t.Kind == booted && t.Boot != boot }

// bootspec is what NixOS says of how a system is booted (RFC 125).
type bootspec struct {
	V1 struct {
		Kernel        string   `json:"kernel"`
		Initrd        string   `json:"initrd"`
		InitrdSecrets string   `json:"initrdSecrets"`
		KernelParams  []string `json:"kernelParams"`
		Init          string   `json:"init"`
	} `json:"org.nixos.bootspec.v1"`
}

// unitFiles must be in a NixOS system that is booted for a trial: without them
// nobody would examine it, nor go back.
var unitFiles = []string{"etc/systemd/system/nixos-closure.service", "etc/systemd/system/nixos-closure.timer"}

// canBootOnce says why a system can't be booted for a trial, if it can't.
func (r *run) canBootOnce(path nix.StorePath) error {
	if r.config.Reboot == Never {
		return errors.New("reboot says never")
	}
	if len(r.config.Activate) > 0 {
		return nil // its command will say so
	}
	if _, err := r.kexecArguments(path); err != nil {
		return err
	}
	for _, name := range unitFiles {
		if _, err := os.Lstat(filepath.Join(r.store.RealPath(path), name)); err != nil {
			return fmt.Errorf("it would not be examined after the boot: %w", err)
		}
	}
	return nil
}

// kexecArguments are what kexec has to load to boot a system.
func (r *run) kexecArguments(path nix.StorePath) ([]string, error) {
	system := r.store.RealPath(path)
	var spec bootspec
	data, err := os.ReadFile(filepath.Join(system, "boot.json"))
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &spec); err != nil {
			return nil, fmt.Errorf("%s/boot.json: %w", path, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	v1 := &spec.V1
	if v1.Kernel == "" { // it is of before there were any
		parameters, err := os.ReadFile(filepath.Join(system, "kernel-params"))
		if err != nil {
			return nil, err
		}
		v1.Kernel, v1.Initrd, v1.Init = path.String()+"/kernel", path.String()+"/initrd", path.String()+"/init"
		v1.KernelParams = strings.Fields(string(parameters))
		if _, err := os.Lstat(filepath.Join(system, "append-initrd-secrets")); err == nil {
			v1.InitrdSecrets = path.String() + "/append-initrd-secrets"
		}
	}
	if v1.InitrdSecrets != "" {
		return nil, errors.New("its initrd gets secrets that only the boot loader's files have")
	}
	arguments := []string{"--load", v1.Kernel}
	if v1.Initrd != "" {
		arguments = append(arguments, "--initrd="+v1.Initrd)
	}
	return append(arguments, "--command-line="+strings.Join(append([]string{"init=" + v1.Init}, v1.KernelParams...), " ")), nil
}

// bootOnce reboots into the trial's system, and ends the run.
func (r *run) bootOnce(ctx context.Context) error {
	t := r.state.Trial
	r.log("booting %s, %s, for once (attempt %d)", r.idName(t.ID), t.Path, t.Attempt)
	err := r.loadAndBoot(ctx, t.Path)
	r.changed("boot-once")
	if ctx.Err() != nil {
		return ctx.Err() // such as by the shutdown
	}
	if err == nil {
		return ends(Booting, t.ID, "%s is booted for once, to be proven; the machine boots %s by default", r.idName(t.ID), t.Old.Profile)
	}
	// Nothing has happened. That isn't the generation's fault.
	return r.postpone(ctx, fmt.Sprintf("the machine can't be rebooted into it: %v", err))
}

func (r *run) loadAndBoot(ctx context.Context, path nix.StorePath) error {
	if len(r.config.Activate) > 0 {
		return r.units.Run(ctx, activationUnit, r.outputFile(), nil, r.config.activation(path, "boot-once")...)
	}
	arguments, err := r.kexecArguments(path)
	if err != nil {
		return err
	}
	if _, err := command(ctx, nil, append([]string{"kexec"}, arguments...)...); err != nil {
		return err
	}
	if _, err := command(ctx, nil, "systemctl", "kexec"); err != nil {
		return errors.Join(err, r.unload(ctx))
	}
	return nil
}

// unload sees to it that no boot of this one leads to the trial's system any more,
// should one be about to.
func (r *run) unload(ctx context.Context) error {
	if len(r.config.Activate) > 0 {
		return nil
	}
	_, err := command(ctx, nil, "kexec", "--unload")
	return err
}

// proveBooted examines a system that was booted for a trial, and keeps it, or
// goes back by another boot.
func (r *run) proveBooted(ctx context.Context) error {
	r.log("the machine has booted %s for a trial", r.idName(r.state.Trial.ID))
	if err := r.arm(ctx); err != nil {
		return err
	}
	if err := r.prove(ctx); err != nil {
		return err
	}
	if r.state.Trial.Stage == stageCondemned {
		return r.leave(ctx)
	}
	return r.keep(ctx)
}

// bootBack reboots, by default into the old system, and ends the run. The run
// that comes next judges.
func (r *run) bootBack(ctx context.Context) error {
	t := r.state.Trial
	r.log("rebooting into %s", t.Old.Profile)
	_, err := command(ctx, nil, r.config.RebootCommand...)
	r.changed("boot back")
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return ends(Stranded, t.ID, "%s is not to be kept (%s), and the machine can't be rebooted into %s: %v", r.idName(t.ID), t.reason(), t.Old.Profile, err)
	}
	return ends(Booting, t.ID, "%s is not to be kept (%s), so the machine reboots into %s", r.idName(t.ID), t.reason(), t.Old.Profile)
}
