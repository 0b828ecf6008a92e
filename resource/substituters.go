package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A furtherCache is a substituter, a cache that a closure may be completed from.
type furtherCache struct {
	Cache       cacheURL
	Credentials blob.Config
	PublicKeys  nix.Keys // trusted for its paths
	Skip        bool     // a put need not upload what it has
}

// nixosKey signs https://cache.nixos.org. Nix trusts it without being told.
const nixosKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

// decodeSubstituters takes substituters, a list of URLs or of objects with a
// URL, keys and credentials, and skip_upstream, a list of URLs. Those that name
// no keys are judged by the source's.
func decodeSubstituters(o *object, trusted nix.Keys) []furtherCache {
	var list []furtherCache
	for i, raw := range o.list("substituters") {
		key := fmt.Sprintf("substituters[%d]", i)
		entry := o.element(key, raw, "url")
		entry.require("url", "the URL of a cache as in nix.conf")
		s := furtherCache{
			Cache:       parsed(entry, "url", parseCacheURL),
			Credentials: decodeAccess(entry),
			PublicKeys:  keys(entry, "trusted_public_keys", nix.ParsePublicKey),
		}
		entry.finish()
		list = append(list, s)
	}
	for _, text := range o.texts("skip_upstream") {
		u, err := parseCacheURL(text)
		if err != nil {
			o.failWith("skip_upstream", err)
			continue
		}
		i := slices.IndexFunc(list, func(s furtherCache) bool {
			return s.Cache.store != nil && s.Cache.store.String() == u.store.String()
		})
		if i < 0 {
			i = len(list)
			list = append(list, furtherCache{Cache: u})
		}
		list[i].Skip = true
	}
	for i := range list {
		switch s := &list[i]; {
		case len(s.PublicKeys) > 0 || s.Cache.store == nil:
		case s.Cache.store.Host == "cache.nixos.org":
			key, err := nix.ParsePublicKey(nixosKey)
			if err != nil {
				panic(err)
			}
			s.PublicKeys = nix.Keys{key}
		default:
			s.PublicKeys = trusted
		}
	}
	return list
}

// open returns the cache, with the source's word on signatures.
func (s *furtherCache) open(ctx context.Context, requireSigs bool) (*cache.Cache, error) {
	store, err := blob.Open(ctx, s.Cache.store, s.Credentials)
	if err != nil {
		return nil, fmt.Errorf("source.substituters: %w", err)
	}
	return cache.New(store, cache.Config{PublicKeys: s.PublicKeys, RequireSigs: requireSigs}), nil
}

// tellUpstreams says what hosts need besides our own cache, if anything of the
// closure was left to others.
func tellUpstreams(c *Console, m *Metadata, to *cache.Cache, closure *cache.Closure) {
	upstreams := map[string]int{}
	for i := range closure.Paths {
		if u := closure.Paths[i].Upstream(); u != "" {
			upstreams[u]++
		}
	}
	if len(upstreams) == 0 {
		return
	}
	need := []string{to.String()}
	for _, u := range slices.Sorted(maps.Keys(upstreams)) {
		need = append(need, u)
		c.Say("left %s to %s", count(upstreams[u], "path"), u)
	}
	c.Say("hosts need all of these in nix.conf, each with its key: substituters = %s", strings.Join(need, " "))
	m.add("substituters", strings.Join(need, " "))
}

// element opens an element of a list, which is an object, or a string that is
// short for an object with just that key.
func (o *object) element(path string, raw json.RawMessage, short string) *object {
	e := &object{request: o.request, path: o.path + "." + path}
	switch kindOf(raw) {
	case "a string":
		e.fields = map[string]json.RawMessage{short: raw}
	case "an object":
		if err := json.Unmarshal(raw, &e.fields); err != nil {
			e.failWith("", err)
		}
	default:
		e.failWith("", hint.With(errors.New("want a string or an object, got "+kindOf(raw)), "write a URL, or an object with %s and trusted_public_keys", short))
	}
	return e
}

// list takes a list of anything. What isn't a list is a list of one.
func (o *object) list(key string) []json.RawMessage {
	raw, ok := o.raw(key)
	if !ok {
		return nil
	}
	var elements []json.RawMessage
	if json.Unmarshal(raw, &elements) != nil {
		return []json.RawMessage{raw}
	}
	return elements
}
