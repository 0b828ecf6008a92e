package command

import (
	"context"
	"os"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/host"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// hostKey is the key of the configuration's file that holds how this machine
// follows; all others are those of a source.
const hostKey = "host"

// hostConfig is how this machine follows.
func (a *app) hostConfig() (host.Config, error) {
	content, _, err := a.settings.fromFile()
	if err != nil {
		return host.Config{}, err
	}
	config, err := host.ParseConfig(content[hostKey])
	if err != nil {
		return host.Config{}, hint.Usage(err)
	}
	return config, nil
}

// host opens this machine as one that follows a pointer, that of the source
// unless another is named.
func (a *app) host(ctx context.Context, name pointer.Name) (*host.Host, error) {
	config, err := a.hostConfig()
	if err != nil {
		return nil, err
	}
	s, p, err := a.open(ctx, name)
	if err != nil {
		return nil, err
	}
	return &host.Host{
		Config:  config,
		Pointer: p.Pointer,
		Cache:   s.Cache,
		Reports: s.Store,
		Reach: func(ctx context.Context) error {
			_, again, err := a.open(ctx, name) // with connections of its own
			if err == nil {
				_, err = again.Read(ctx)
			}
			return err
		},
		Log: a.console.Say,
	}, nil
}

// helper runs what a host has begun by this program itself, if the arguments say
// so, and returns its exit status.
func (a *app) helper(ctx context.Context, args []string) (status int, isHelper bool) {
	var err error
	switch {
	case len(args) > 0 && args[0] == host.UnitCommand:
		err = host.UnitMain(args[1:])
	case len(args) == 3 && args[0] == host.EndTrialCommand:
		err = host.EndTrial(ctx, args[1], args[2], a.console.Say)
	default:
		return 0, false
	}
	if err != nil {
		a.console.Fail(err)
		return failed, true
	}
	return done, true
}

// wrongStateDir words an error of a state directory that can't be used.
func wrongStateDir(err error, dir string) error {
	if os.IsPermission(err) {
		return hint.With(err, "%s belongs to whoever follows, most often root", dir)
	}
	return err
}
