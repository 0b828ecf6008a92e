package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// keep makes a proven system what the machine boots, if it would boot as it was
// proven.
func (r *run) keep(ctx context.Context) error {
	t := r.state.Trial
	if err := r.unmoved(ctx, System{t.Path, t.Old.Profile}, System{t.Path, t.Path}); err != nil {
		return err
	}
	if _, err := r.openStore(ctx); err != nil {
		return err
	}
	otherwise, err := r.bootsOtherwise(t.Path)
	if err != nil {
		return err
	}
	switch {
	case r.config.Mode == Test:
		return r.finish(ctx, Tested, false, "%s runs and is proven, until the next boot", r.idName(t.ID))
	case otherwise:
		return r.finish(ctx, Tested, true, "%s runs and is proven; the machine still boots %s, since it would boot another kernel or initrd than %[1]s was proven with",
			r.idName(t.ID), t.Old.Profile)
	}
	t.Kept = true
	if err := r.save("keeping"); err != nil {
		return err
	}
	if err := r.makeDefault(ctx, t.Path); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.condemn(nil, "it could not be made what the machine boots: %v", err)
		r.log("%s is left: %s", r.idName(t.ID), t.Reason)
		if err := r.save(string(t.Stage)); err != nil {
			return err
		}
		return r.leave(ctx)
	}
	return r.finish(ctx, Switched, false, "%s runs, is proven, and is what the machine boots", r.idName(t.ID))
}

// makeDefault makes a system the newest generation of the profile and what the
// machine boots. It returns when that is on disk and was found there.
func (r *run) makeDefault(ctx context.Context, path nix.StorePath) error {
	if err := r.store.SetProfile(ctx, r.config.Profile, path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(r.config.Profile)); err != nil {
		return err
	}
	r.changed("profile")
	if err := r.activate(ctx, path, "boot"); err != nil {
		return err
	}
	for _, dir := range r.config.Boot {
		if err := syncFileSystem(dir); err != nil {
			return err
		}
	}
	if got, err := storePathOf(r.config.Profile); err != nil || got != path {
		return errors.Join(fmt.Errorf("the profile leads to %s", got), err)
	}
	if len(r.config.Activate) > 0 {
		return nil
	}
	return checkBootLoader(r.config.Boot, path)
}

// checkBootLoader looks whether the boot loaders that there are have an entry for
// a system. What it doesn't know, it takes for right.
func checkBootLoader(dirs []string, path nix.StorePath) error {
	var looked []string
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "loader/entries/*.conf"))
		if err != nil {
			return err
		}
		for _, file := range append(files, filepath.Join(dir, "grub/grub.cfg")) {
			text, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if slices.Contains(strings.Fields(string(text)), "init="+path.String()+"/init") {
				return nil
			}
			looked = append(looked, file)
		}
	}
	if len(looked) == 0 {
		return nil
	}
	return fmt.Errorf("no entry of the boot loader has init=%s/init: neither of %s", path, strings.Join(looked, ", "))
}

// finish ends a trial that has proven its system.
func (r *run) finish(ctx context.Context, result Result, needsReboot bool, format string, args ...any) error {
	t := r.state.Trial
	left, err := r.system()
	if err != nil {
		return err
	}
	r.state.Proven = &Proof{ID: t.ID, At: r.host.now().Unix(), Activation: t.Activation, Boot: r.boot, NeedsReboot: needsReboot}
	r.state.Attempts, r.state.Unclear, r.state.Drift, r.state.Left = Attempts{}, nil, nil, &left
	r.state.Failed = slices.DeleteFunc(r.state.Failed, func(v Verdict) bool { return v.ID == t.ID })
	if err := r.endTrial(ctx); err != nil {
		return err
	}
	if err := r.save("finished"); err != nil {
		return err
	}
	if err := r.config.pruneRoots(r.state.Pointer, t.Path, t.Old.Running, left.Profile); err != nil {
		r.log("pruning roots: %v", err)
	}
	e := ends(result, t.ID, format, args...)
	e.NeedsReboot = needsReboot
	return e
}
