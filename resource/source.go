package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A Source is the source of a resource in a pipeline: which pointer of which
// cache, and whom to trust. README.md says what each key means.
type Source struct {
	Cache   cacheURL
	Access  blob.Config
	Pointer pointer.Name

	SigningKeys        []nix.SecretKey // of paths
	PublicKeys         nix.Keys        // trusted for paths; the public halves of SigningKeys are among them
	RequireSigs        bool
	PointerSigningKeys []nix.SecretKey
	PointerPublicKeys  nix.Keys // trusted for the pointer

	Substituters []furtherCache
	From         origin        // of promotions
	ExpiresAfter time.Duration // 0: a generation doesn't expire
	Provenance   disclosure

	Nix       nixstore.Settings // of what a put builds, without its caches
	BuildLogs bool              // are kept in the cache
}

// decodeSource takes the source of a request.
func decodeSource(r *request) Source { return decodeSourceOf(r, true) }

// decodeSourceOf takes the source of a request that is about one pointer, or one
// that need not name any.
func decodeSourceOf(r *request, onePointer bool) Source {
	o := r.object("source")
	defer o.finish()
	o.require("cache", "the URL of a cache as in nix.conf: s3://bucket?region=eu-central-1, https://cache.example.org or file:///srv/cache")
	if onePointer {
		o.require("pointer", "the name of what is to run one closure after the other, such as a host's: pointer: web-1")
	}
	s := Source{
		Cache:              parsed(o, "cache", parseCacheURL),
		Pointer:            parsed(o, "pointer", pointer.ParseName),
		Access:             decodeAccess(o),
		SigningKeys:        keys(o, "signing_key", nix.ParseSecretKey),
		PublicKeys:         keys(o, "trusted_public_keys", nix.ParsePublicKey),
		RequireSigs:        o.flag("require_sigs", true),
		PointerSigningKeys: keys(o, "pointer_signing_key", nix.ParseSecretKey),
		PointerPublicKeys:  keys(o, "pointer_public_keys", nix.ParsePublicKey),
		ExpiresAfter:       parsed(o, "expires_after", parseLifetime),
		Provenance:         cmp.Or(parsed(o, "provenance", parseDisclosure), full),
	}
	s.Nix = decodeNix(o, s.Access.Netrc)
	s.BuildLogs = o.flag("build_logs", false)
	s.fillInKeys()
	s.Substituters = decodeSubstituters(o, s.PublicKeys)
	s.From = decodeOrigin(o, &s)
	if s.RequireSigs && len(s.PublicKeys) == 0 && len(r.mistakes) == 0 {
		o.failWith("trusted_public_keys", hint.With(errors.New("no key is trusted, so nothing in the cache could be accepted"),
			"name the keys that sign the cache, or set require_sigs: false for a cache that nobody signs"))
	}
	return s
}

// decodeAccess takes what says who we are to a store, in the words of
// Concourse's s3 resource.
func decodeAccess(o *object) blob.Config {
	return blob.Config{
		AccessKeyID:                 o.text("access_key_id"),
		SecretAccessKey:             o.text("secret_access_key"),
		SessionToken:                o.text("session_token"),
		AWSRoleARN:                  o.text("aws_role_arn"),
		EnableAWSCredsProviderChain: o.flag("enable_aws_creds_provider_chain", false),
		SkipS3Checksums:             o.flag("skip_s3_checksums", false),
		ConditionalWrites:           o.optionalFlag("conditional_writes"),
		Netrc:                       o.text("netrc"),
		BearerToken:                 o.text("bearer_token"),
		DisableSSL:                  o.flag("disable_ssl", false),
		SkipSSLVerification:         o.flag("skip_ssl_verification", false),
		CACerts:                     o.texts("ca_certs"),
	}
}

// open returns the store of bytes that the cache and the pointer are in.
func (s *Source) open(ctx context.Context) (blob.Store, error) {
	store, err := blob.Open(ctx, s.Cache.store, s.Access)
	if err != nil {
		return nil, fmt.Errorf("source.cache: %w", err)
	}
	return store, nil
}

// cache returns the cache in store, with the trust and the wishes of the source,
// and those of its substituters that a put leaves paths to.
func (s *Source) cache(ctx context.Context, store blob.Store) (c *cache.Cache, upstreams []*cache.Cache, err error) {
	var substituters []*cache.Cache
	for i := range s.Substituters {
		opened, err := s.Substituters[i].open(ctx, s.RequireSigs)
		if err != nil {
			return nil, nil, err
		}
		substituters = append(substituters, opened)
		if s.Substituters[i].Skip {
			upstreams = append(upstreams, opened)
		}
	}
	return cache.New(store, cache.Config{
		PublicKeys:       s.PublicKeys,
		RequireSigs:      s.RequireSigs,
		SigningKeys:      s.SigningKeys,
		Substituters:     substituters,
		Compression:      s.Cache.compression,
		CompressionLevel: s.Cache.compressionLevel,
		WantMassQuery:    s.Cache.wantMassQuery,
		Priority:         s.Cache.priority,
	}), upstreams, nil
}

// pointer returns the pointer in store.
func (s *Source) pointer(store blob.Store) *pointer.Pointer {
	return pointer.New(store, pointer.Config{
		Name:         s.Pointer,
		PublicKeys:   s.PointerPublicKeys,
		RequireSigs:  s.RequireSigs,
		SigningKeys:  s.PointerSigningKeys,
		ExpiresAfter: s.ExpiresAfter,
		SingleWriter: s.Access.ConditionalWrites != nil && !*s.Access.ConditionalWrites,
	})
}

// fillInKeys says what the keys are that the source doesn't name. Our own
// signatures are trusted. A pointer is trusted to those who may sign paths only
// as far as the source doesn't know its signer.
func (s *Source) fillInKeys() {
	if len(s.PointerSigningKeys) == 0 {
		s.PointerSigningKeys = s.SigningKeys
	}
	if len(s.PointerPublicKeys) == 0 {
		s.PointerPublicKeys = pointerKeys(s.PointerSigningKeys, s.PublicKeys)
	}
	s.PublicKeys = union(publicHalves(s.SigningKeys), s.PublicKeys)
}

// pointerKeys are the public halves of the pointer's signing keys and those of
// the trusted keys that bear the same names: predecessors and successors of
// ours. Where no signing key is known, all the trusted keys.
func pointerKeys(signing []nix.SecretKey, trusted nix.Keys) nix.Keys {
	if len(signing) == 0 {
		return trusted
	}
	own := publicHalves(signing)
	return union(own, slices.DeleteFunc(slices.Clone(trusted), func(k nix.PublicKey) bool {
		return !slices.ContainsFunc(own, func(o nix.PublicKey) bool { return o.Name() == k.Name() })
	}))
}

func publicHalves(secret []nix.SecretKey) nix.Keys {
	public := make(nix.Keys, len(secret))
	for i, k := range secret {
		public[i] = k.Public()
	}
	return public
}

// union is a and those of b that a doesn't have.
func union(a, b nix.Keys) nix.Keys {
	for _, k := range b {
		if !slices.Contains(a, k) {
			a = append(a, k)
		}
	}
	return a
}

// keys takes a list of keys, or a string of keys with spaces between them as in
// nix.conf.
func keys[Key any](o *object, key string, parse func(string) (Key, error)) []Key {
	var list []Key
	for _, word := range strings.Fields(strings.Join(o.texts(key), " ")) {
		k, err := parse(word)
		if err != nil {
			o.failWith(key, err)
			continue
		}
		list = append(list, k)
	}
	return list
}

// parseLifetime parses a duration such as 168h or 7d.
func parseLifetime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int64
		n, err = strconv.ParseInt(days, 10, 32)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < time.Minute || d%time.Second != 0 {
		return 0, fmt.Errorf("want a time of a minute or more, such as 168h or 7d, got %q", s)
	}
	return d, nil
}
