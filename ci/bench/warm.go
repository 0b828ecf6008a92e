package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"
)

// A warm pair of caches, far away, has a closure already: ours, which has a
// pointer to it, and Nix's.
type warm struct {
	lab    *lab
	origin origin
	both   bool // else there is none of Nix's

	filled    bool
	base      closure
	ours, nix *site
	version   version // of base
}

// fill is a warm pair that is filled when it is first needed.
func (l *lab) fill(origin origin, both bool) *warm { return &warm{lab: l, origin: origin, both: both} }

func (w *warm) fill(ctx context.Context) error {
	if w.filled {
		return nil
	}
	var err error
	if w.base, err = w.origin(ctx); err != nil {
		return err
	}
	fmt.Fprintln(w.lab.log, "  filling caches")
	if w.ours, err = w.lab.open(ctx, versitygw, far); err != nil {
		return err
	}
	// From afar: once for each way to it, a cache is asked what it can do.
	if _, w.version, err = w.lab.out(ctx, w.ours, w.base, zstd); err != nil {
		return err
	}
	if w.both {
		if w.nix, err = w.lab.open(ctx, versitygw, far); err != nil {
			return err
		}
		if _, err = w.lab.nixPush(ctx, w.nix.near(), w.base, zstd); err != nil {
			return err
		}
	}
	w.filled = true
	return nil
}

// ourPush pushes the Debian system, or one with other paths of a package and
// its dependents, which are new each round, when the pointer leads to the Debian
// system.
func (w *warm) ourPush(bump string) contestant {
	return func(ctx context.Context, round int) (sample, error) {
		c, err := w.next(ctx, bump, round)
		if err != nil {
			return sample{}, err
		}
		if _, _, err := w.lab.out(ctx, w.ours, w.base, zstd); err != nil {
			return sample{}, err
		}
		return w.lab.ourPush(ctx, w.ours, c, zstd)
	}
}

// nixPush is the same with nix copy.
func (w *warm) nixPush(bump string) contestant {
	return func(ctx context.Context, round int) (sample, error) {
		c, err := w.next(ctx, bump, round)
		if err != nil {
			return sample{}, err
		}
		return w.lab.nixPush(ctx, w.nix, c, zstd)
	}
}

// next is what to push after the closure that is there.
func (w *warm) next(ctx context.Context, bump string, round int) (closure, error) {
	if err := w.fill(ctx); err != nil || bump == "" {
		return w.base, err
	}
	return w.lab.system(ctx, bump, round+1)
}

// ourFetch gets the closure in a format, below a directory.
func (w *warm) ourFetch(at func(*site) *site, format, parent string) contestant {
	return func(ctx context.Context, _ int) (sample, error) {
		if err := w.fill(ctx); err != nil {
			return sample{}, err
		}
		return w.lab.in(ctx, at(w.ours), w.version, format, parent)
	}
}

// nixFetch copies the closure into an empty store.
func (w *warm) nixFetch(at func(*site) *site) contestant {
	return func(ctx context.Context, _ int) (sample, error) {
		if err := w.fill(ctx); err != nil {
			return sample{}, err
		}
		dir, err := os.MkdirTemp(w.lab.scratch, "store-")
		if err != nil {
			return sample{}, err
		}
		defer removeTree(dir)
		return w.lab.nixFetch(ctx, at(w.nix), closure{w.base.root, dir})
	}
}

// nixFind copies the closure to where it is already.
func (w *warm) nixFind(ctx context.Context, _ int) (sample, error) {
	if err := w.fill(ctx); err != nil {
		return sample{}, err
	}
	return w.lab.nixFetch(ctx, w.nix, w.base)
}

// check asks for what is newer than the closure.
func (w *warm) check(ctx context.Context, _ int) (sample, error) {
	if err := w.fill(ctx); err != nil {
		return sample{}, err
	}
	return w.lab.check(ctx, w.ours, w.version)
}

// roundTrip is how long one small request takes on a new connection, in seconds.
func (w *warm) roundTrip(ctx context.Context) (float64, error) {
	if err := w.fill(ctx); err != nil {
		return 0, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var seconds []float64
	for range 5 {
		start := time.Now()
		response, err := client.Get(w.ours.proxy.url + "/" + bucket + "/pointers/" + pointerName)
		if err != nil {
			return 0, err
		}
		response.Body.Close()
		seconds = append(seconds, time.Since(start).Seconds())
	}
	return median(seconds), nil
}
