package resource

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
)

// realise builds derivations, as far as they aren't there, and keeps the logs of
// what was built, if the source says so, of what has failed, too.
func (p *publisher) realise(ctx context.Context, derivations ...nixstore.Derivation) ([]nix.StorePath, error) {
	paths, err := p.local.Realise(ctx, derivations...)
	if p.source.BuildLogs && ctx.Err() == nil {
		p.keepLogs(ctx)
	}
	return paths, err
}

// maxLogs is how many logs are stored side by side.
const maxLogs = 16

// keepLogs stores logs in the cache. Nothing depends on them.
func (p *publisher) keepLogs(ctx context.Context) {
	built := p.local.Built()
	var kept, lost atomic.Int64
	var first atomic.Pointer[error]
	group := new(errgroup.Group)
	group.SetLimit(maxLogs)
	for _, derivation := range built {
		group.Go(func() error {
			log, err := p.local.OpenLog(derivation)
			if err == nil {
				err = p.here.PutLog(ctx, derivation, log)
				log.Close()
			}
			switch {
			case err == nil:
				kept.Add(1)
			case errors.Is(err, fs.ErrNotExist) && p.source.Nix.Store == "": // it has said nothing
			default:
				lost.Add(1)
				first.CompareAndSwap(nil, &err)
			}
			return nil
		})
	}
	group.Wait()
	if n := kept.Load(); n > 0 {
		p.Console.Say("kept %s: nix log --store %s shows them", count(int(n), "build log"), p.here)
	}
	if n := lost.Load(); n > 0 {
		p.Console.Warn("%s not kept: %v", count(int(n), "build log"), *first.Load())
	}
}
