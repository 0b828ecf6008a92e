package site

import (
	"fmt"
	"slices"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/fields"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Substituter is a further cache that a closure may be completed from.
type Substituter struct {
	Cache        CacheURL
	Access       blob.Config
	PublicKeys   nix.Keys // trusted for its paths
	SkipUpstream bool     // a push need not upload what it has
}

// nixosKey signs https://cache.nixos.org. Nix trusts it without being told.
const nixosKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

// decodeSubstituters takes substituters, a list of URLs or of objects with a
// URL, keys and credentials, and skip_upstream, a list of URLs. Those that name
// no keys are judged by the source's.
func decodeSubstituters(o *fields.Object, trusted nix.Keys) []Substituter {
	var list []Substituter
	for i, raw := range o.List("substituters") {
		key := fmt.Sprintf("substituters[%d]", i)
		entry := o.Element(key, raw, "url")
		entry.Require("url", "the URL of a cache as in nix.conf")
		s := Substituter{
			Cache:      fields.Parsed(entry, "url", ParseCacheURL),
			Access:     decodeAccess(entry),
			PublicKeys: keys(entry, "trusted_public_keys", nix.ParsePublicKey),
		}
		entry.Finish()
		list = append(list, s)
	}
	for _, text := range o.Texts("skip_upstream") {
		u, err := ParseCacheURL(text)
		if err != nil {
			o.FailWith("skip_upstream", err)
			continue
		}
		i := slices.IndexFunc(list, func(s Substituter) bool { return s.isAt(u) })
		if i < 0 {
			i = len(list)
			list = append(list, Substituter{Cache: u})
		}
		list[i].SkipUpstream = true
	}
	for i := range list {
		switch s := &list[i]; {
		case len(s.PublicKeys) > 0 || s.Cache.Store == nil:
		case s.Cache.Store.Host == "cache.nixos.org":
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

// isAt says whether the substituter is the cache at a URL, however that is written.
func (s *Substituter) isAt(u CacheURL) bool {
	if s.Cache.IsZero() {
		return false
	}
	ours, err := blob.LocationOf(s.Cache.Store, s.Access)
	if err != nil {
		return false
	}
	theirs, err := blob.LocationOf(u.Store, s.Access)
	return err == nil && ours == theirs
}
