// Package site is which cache, whose keys, which pointers: what every front says
// before it says what to do, as types, and what that opens.
//
// A [Config] is what a pipeline's source says, or the flags, environment and
// configuration file of a command. [Decode] takes it from either. [Open] opens the
// store of bytes, the cache in it and the caches that complete it; it makes no
// request. From a [Site], pointers are had by their names, one or many.
package site

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A Config says which pointer of which cache is meant, and whom to trust.
// README.md says what each key of a source means.
type Config struct {
	Cache   CacheURL
	Access  blob.Config
	Pointer pointer.Name // empty where what is to be done names pointers itself

	SigningKeys        []nix.SecretKey // of paths
	PublicKeys         nix.Keys        // trusted for paths; the public halves of SigningKeys are among them
	RequireSigs        bool
	PointerSigningKeys []nix.SecretKey
	PointerPublicKeys  nix.Keys // trusted for the pointer

	Substituters []Substituter
	From         Origin        // of promotions
	ExpiresAfter time.Duration // 0: a generation doesn't expire
	Provenance   Disclosure

	name func(key string) string // how a person calls a setting
}

// An Origin is where promotions come from, and whom to believe there.
type Origin struct {
	Cache             CacheURL // zero: the site's own
	Access            blob.Config
	PublicKeys        nix.Keys // trusted for paths
	PointerPublicKeys nix.Keys // trusted for pointers
	RequireSigs       bool
}

// A Site is a Config that was opened.
type Site struct {
	Config
	Store     blob.Store
	Cache     *cache.Cache
	Upstreams []*cache.Cache // those substituters whose paths a push leaves to them
}

// Open opens what config describes. It makes no request. Warn is told, later, of
// substituters that are done without.
func Open(ctx context.Context, config Config, warn func(error)) (*Site, error) {
	s := &Site{Config: config}
	var err error
	if s.Store, err = blob.Open(ctx, config.Cache.Store, config.Access); err != nil {
		return nil, fmt.Errorf("%s: %w", s.setting("cache"), err)
	}
	var substituters []*cache.Cache
	for i := range config.Substituters {
		sub := &config.Substituters[i]
		store, err := blob.Open(ctx, sub.Cache.Store, sub.Access)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.setting("substituters"), err)
		}
		opened := cache.New(store, cache.Config{PublicKeys: sub.PublicKeys, RequireSigs: config.RequireSigs, Optional: true, Warn: warn})
		substituters = append(substituters, opened)
		if sub.SkipUpstream {
			s.Upstreams = append(s.Upstreams, opened)
		}
	}
	s.Cache = cache.New(s.Store, cache.Config{
		PublicKeys:       config.PublicKeys,
		RequireSigs:      config.RequireSigs,
		SigningKeys:      config.SigningKeys,
		Substituters:     substituters,
		Compression:      config.Cache.Compression,
		CompressionLevel: config.Cache.CompressionLevel,
		WantMassQuery:    config.Cache.WantMassQuery,
		Priority:         config.Cache.Priority,
	})
	return s, nil
}

// IsPlace says whether the cache's place is one that can become a cache: a bucket
// that answers, or a directory that is there and empty, as a new file system is. A
// web server can't.
func (s *Site) IsPlace(ctx context.Context) bool {
	if !s.Store.Capabilities().Write {
		return false
	}
	if u := s.Config.Cache.Store; u.Scheme == "file" {
		entries, err := os.ReadDir(u.Path)
		return err == nil && !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != "lost+found" })
	}
	return true
}

// setting is how a person calls a setting of the configuration.
func (c *Config) setting(key string) string {
	if c.name == nil {
		return key
	}
	return c.name(key)
}

// Origin opens where promotions come from. Its cache is the site's own, unless the
// configuration names another.
func (s *Site) Origin(ctx context.Context) (*Site, error) {
	from := &s.From
	if from.Cache.IsZero() {
		return s.origin(s.Store, s.Cache), nil
	}
	store, err := blob.Open(ctx, from.Cache.Store, from.Access)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.setting("from"), err)
	}
	return s.OriginIn(store), nil
}

// OriginIn is Origin for a cache that lies in store, such as one that an earlier
// step has left.
func (s *Site) OriginIn(store blob.Store) *Site {
	return s.origin(store, cache.New(store, cache.Config{PublicKeys: s.From.PublicKeys, RequireSigs: s.From.RequireSigs}))
}

func (s *Site) origin(store blob.Store, c *cache.Cache) *Site {
	return &Site{
		Config: Config{
			PublicKeys: s.From.PublicKeys, PointerPublicKeys: s.From.PointerPublicKeys, RequireSigs: s.From.RequireSigs, name: s.name,
		},
		Store: store,
		Cache: c,
	}
}

// Pointer returns a pointer of the site. It makes no request.
func (s *Site) Pointer(name pointer.Name) *Pointer {
	return &Pointer{
		Pointer: pointer.New(s.Store, pointer.Config{
			Name:         name,
			PublicKeys:   s.PointerPublicKeys,
			RequireSigs:  s.RequireSigs,
			SigningKeys:  s.PointerSigningKeys,
			ExpiresAfter: s.ExpiresAfter,
			SingleWriter: s.Access.ConditionalWrites != nil && !*s.Access.ConditionalWrites,
		}),
		Name: name,
		site: s,
	}
}
