package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// What a system has that only a boot changes: links in it.
var bootFiles = []string{"kernel", "initrd", "kernel-modules"}

// inhibitorsFile is what NixOS has of components that must not be changed in a
// running system: an object of texts.
const inhibitorsFile = "switch-inhibitors"

// switchLock is what NixOS's activation holds.
const switchLock = "/run/nixos/switch-to-configuration.lock"

// prepare ends the run if the generation can't be tried now.
func (r *run) prepare(ctx context.Context, g pointer.Generation, old System) error {
	id := idOf(g)
	if r.config.Mode == DryActivate {
		err := r.units.Run(ctx, activationUnit, r.outputFile(), nil, r.config.activation(g.Path, "dry-activate")...)
		if err != nil {
			return err
		}
		output, err := os.ReadFile(r.outputFile())
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(output)) {
			r.log("%s", strings.TrimRight(line, "\n"))
		}
		return ends(Shown, id, "%s would be activated in the place of %s", r.nameOf(g), old.Running)
	}
	changed, err := r.inhibitors(old.Running, g.Path)
	if err != nil {
		return ends(Refused, id, "%s can't be switched to: %v", r.nameOf(g), err)
	}
	otherwise, err := r.bootsOtherwise(g.Path)
	if err != nil {
		return err
	}
	r.kind = live
	if r.config.Mode == Boot || r.config.Mode == Switch && (len(changed) > 0 || otherwise) {
		switch err := r.canBootOnce(g.Path); {
		case err == nil:
			r.kind = booted
		case r.config.Mode == Boot:
			return ends(Waiting, id, "%s can't be booted for a trial, so it needs a reboot by hand: %v", r.nameOf(g), err)
		case r.config.Reboot != Never:
			r.log("%s can't be booted for a trial: %v", r.nameOf(g), err)
		}
	}
	if len(changed) > 0 && r.kind == live {
		return ends(Waiting, id, "%s changes what must not change while the system runs (%s): it waits for a boot into it",
			r.nameOf(g), strings.Join(changed, ", "))
	}
	if err := r.checkBootRoom(id, old); err != nil {
		return err
	}
	busy, err := isLocked(switchLock)
	if err != nil {
		return err
	}
	if busy {
		return ends(Waiting, id, "%s waits until somebody else's switch is over", r.nameOf(g))
	}
	return nil
}

// inhibitors are what differs between two systems in what both say must not
// change while the system runs. What can't be read, can't be compared.
func (r *run) inhibitors(old, next nix.StorePath) ([]string, error) {
	before, err := readInhibitors(r.store.RealPath(old))
	if err != nil {
		return nil, err
	}
	after, err := readInhibitors(r.store.RealPath(next))
	if err != nil {
		return nil, err
	}
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if value, ok := before[name]; ok && value != after[name] {
			changed = append(changed, name)
		}
	}
	return changed, nil
}

func readInhibitors(system string) (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join(system, inhibitorsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it is of before there were any
	}
	if err != nil {
		return nil, err
	}
	var inhibitors map[string]string
	if err := json.Unmarshal(data, &inhibitors); err != nil {
		return nil, fmt.Errorf("%s/%s is not an object of texts: %w", system, inhibitorsFile, err)
	}
	return inhibitors, nil
}

// isLocked says whether somebody holds the lock of a file.
func isLocked(file string) (bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// bootsOtherwise says whether a boot into a system would bring another kernel,
// initrd or modules than those that run.
func (r *run) bootsOtherwise(path nix.StorePath) (bool, error) {
	booted, err := storePathOf(r.config.Booted)
	if err != nil || booted.IsZero() {
		return false, err // nothing was booted here, as in a container
	}
	for _, name := range bootFiles {
		ours, err := os.Readlink(filepath.Join(r.store.RealPath(booted), name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		theirs, err := os.Readlink(filepath.Join(r.store.RealPath(path), name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if ours != theirs {
			return true, nil
		}
	}
	return false, nil
}

// storePathFile is where the file is, on this machine, that a link in a path
// leads to.
func storePathFile(store *nixcmd.Store, path nix.StorePath, name string) (string, error) {
	file := filepath.Join(store.RealPath(path), name)
	target, err := os.Readlink(file)
	if err != nil {
		return file, nil // it isn't there, or no link
	}
	rest, ok := strings.CutPrefix(target, nix.StoreDir+"/")
	if !ok {
		return file, nil
	}
	base, within, _ := strings.Cut(rest, "/")
	other, err := nix.ParseBaseName(base)
	if err != nil {
		return "", fmt.Errorf("%s leads to %s: %w", file, target, err)
	}
	return filepath.Join(store.RealPath(other), within), nil
}
