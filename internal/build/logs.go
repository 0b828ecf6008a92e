package build

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
)

// realise builds derivations, as far as they aren't there, and keeps the logs of
// what was built, if that is wanted; of what has failed, too.
func (b *builder) realise(ctx context.Context, derivations ...nixcmd.Derivation) ([]nix.StorePath, error) {
	paths, err := b.local.Realise(ctx, derivations...)
	if b.nix.BuildLogs && ctx.Err() == nil {
		b.keepLogs(ctx)
	}
	return paths, err
}

// maxLogs is how many logs are stored side by side.
const maxLogs = 16

// keepLogs stores logs in the cache. Nothing depends on them.
func (b *builder) keepLogs(ctx context.Context) {
	var kept, lost atomic.Int64
	var first atomic.Pointer[error]
	group := new(errgroup.Group)
	group.SetLimit(maxLogs)
	for _, derivation := range b.local.Built() {
		group.Go(func() error {
			log, err := b.local.OpenLog(derivation)
			if err == nil {
				err = b.site.Cache.PutLog(ctx, derivation, log)
				log.Close()
			}
			switch {
			case err == nil:
				kept.Add(1)
			case errors.Is(err, fs.ErrNotExist) && b.nix.Settings.Store == "": // it has said nothing
			default:
				lost.Add(1)
				first.CompareAndSwap(nil, &err)
			}
			return nil
		})
	}
	group.Wait()
	if n := kept.Load(); n > 0 {
		b.console.Say("kept %s: nix log --store '%s' shows them", console.Count(int(n), "build log"), b.site.Cache.URL())
	}
	if n := lost.Load(); n > 0 {
		b.console.Warn("%s not kept: %v", console.Count(int(n), "build log"), *first.Load())
	}
}
