package publish

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// Push pushes closures to a site's cache, and tells a person how that goes.
func Push(ctx context.Context, c *console.Console, s *site.Site, req cache.PushRequest) (*cache.Pushed, error) {
	what := "the closure of " + req.Root.String()
	if n := len(req.Also); n > 0 {
		what = console.Count(n+1, "closure")
	}
	c.Say("pushing %s (%s) to %s", what, console.Amount(len(req.Infos), narSize(req.Infos)), s.Cache)
	req.Upstreams = s.Upstreams
	req.Meter = new(cache.Meter)
	stop := c.Progress("pushing", req.Meter)
	pushed, err := s.Cache.Push(ctx, req)
	stop()
	if err != nil {
		return nil, err
	}
	c.Say("sent %s", Sent(pushed))
	if n := len(pushed.Unaddressed); n > 0 {
		c.Warn("left out the content address of %s, which does not hold: %v", console.Count(n, "path"), pushed.Unaddressed)
	}
	if n := len(pushed.Unreproducible); n > 0 {
		c.Warn("the cache has %s with another content than what is put, and hosts will run the cache's: %v", console.Count(n, "path"), pushed.Unreproducible)
	}
	return pushed, nil
}

// Release gives up the leases of a push.
func Release(ctx context.Context, c *console.Console, pushed *cache.Pushed) {
	if err := pushed.Release(ctx); err != nil {
		c.Warn("a lease of this push stays in the cache: %v", err)
	}
}

// narSize is the size of all the NARs, in bytes.
func narSize(infos []nix.PathInfo) (size int64) {
	for i := range infos {
		size += infos[i].NarSize
	}
	return size
}

// Sent is, say, "12 paths, 81.4 MiB (27.1 MiB compressed)".
func Sent(p *cache.Pushed) string {
	if p.SentPaths == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%s (%s compressed)", console.Amount(p.SentPaths, p.SentNarSize), console.Bytes(p.SentBytes))
}

// SubstitutersFor returns the caches that hosts need for closures that were
// pushed, separated by spaces as in nix.conf: the site's and those that paths were
// left to. It tells a person how many paths that were. The result is empty if the
// site's cache has everything.
func SubstitutersFor(c *console.Console, s *site.Site, closures ...*cache.Closure) string {
	left := map[string]map[nix.StorePath]bool{}
	for _, closure := range closures {
		for i := range closure.Paths {
			if u := closure.Paths[i].Upstream(); u != "" {
				if left[u] == nil {
					left[u] = map[nix.StorePath]bool{}
				}
				left[u][closure.Paths[i].Path] = true
			}
		}
	}
	if len(left) == 0 {
		return ""
	}
	need := []string{s.Cache.URL()}
	for _, u := range slices.Sorted(maps.Keys(left)) {
		need = append(need, u)
		c.Say("left %s to %s", console.Count(len(left[u]), "path"), u)
	}
	all := strings.Join(need, " ")
	c.Say("hosts need all of these in nix.conf, each with its key: substituters = %s", all)
	return all
}
