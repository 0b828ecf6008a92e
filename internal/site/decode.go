package site

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/fields"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// Decode takes the fields of a configuration, in the words of a pipeline's
// source. The caller has the object finished, once it has taken what else there
// is. A pointer must be named if one is needed.
func Decode(o *fields.Object, needPointer bool) Config {
	o.Moved = movedFields
	o.Require("cache", "the URL of a cache as in nix.conf: s3://bucket?region=eu-central-1, https://cache.example.org or file:///srv/cache")
	if needPointer {
		o.Require("pointer", "the name of what is to run one closure after the other, such as a host's: pointer: web-1")
	}
	c := Config{
		Cache:              fields.Parsed(o, "cache", ParseCacheURL),
		Pointer:            fields.Parsed(o, "pointer", pointer.ParseName),
		Access:             decodeAccess(o),
		SigningKeys:        keys(o, "signing_key", nix.ParseSecretKey),
		PublicKeys:         keys(o, "trusted_public_keys", nix.ParsePublicKey),
		RequireSigs:        o.Flag("require_sigs", true),
		PointerSigningKeys: keys(o, "pointer_signing_key", nix.ParseSecretKey),
		PointerPublicKeys:  keys(o, "pointer_public_keys", nix.ParsePublicKey),
		ExpiresAfter:       fields.Parsed(o, "expires_after", parseLifetime),
		Provenance:         cmp.Or(fields.Parsed(o, "provenance", parseDisclosure), Full),
		name:               o.Name,
	}
	c.fillInKeys()
	c.Substituters = decodeSubstituters(o, c.PublicKeys)
	c.From = decodeOrigin(o, &c)
	if c.RequireSigs && len(c.PublicKeys) == 0 && !o.Problems().Any() {
		o.FailWith("trusted_public_keys", hint.With(errors.New("no key is trusted, so nothing in the cache could be accepted"),
			"name the keys that sign the cache with %s, or set %s for a cache that nobody signs", hint.Term("trusted_public_keys"), hint.Term("require_sigs: false")))
	}
	return c
}

// movedFields tells those who come from Concourse's s3 resource where its words
// went.
var movedFields = map[string]string{
	"bucket":      "the bucket is part of the cache's URL, as in nix.conf: cache: s3://bucket",
	"endpoint":    "the endpoint is part of the cache's URL, as in nix.conf: cache: s3://bucket?endpoint=host",
	"region":      "the region is part of the cache's URL, as in nix.conf: cache: s3://bucket?region=eu-central-1",
	"region_name": "the region is part of the cache's URL, as in nix.conf: cache: s3://bucket?region=eu-central-1",
}

// decodeOrigin takes from: the URL of a cache, or an object in the words of the
// source. What it doesn't say is as in the source; but pointers may be signed by
// our key for paths, too: who builds a candidate need not hold the key of who
// releases it.
func decodeOrigin(o *fields.Object, c *Config) Origin {
	from := Origin{
		PublicKeys:        c.PublicKeys,
		PointerPublicKeys: union(publicHalves(c.SigningKeys), c.PointerPublicKeys),
		RequireSigs:       c.RequireSigs,
	}
	raw, ok := o.Raw("from")
	if !ok {
		return from
	}
	e := o.Element("from", raw, "cache")
	defer e.Finish()
	from.Cache = fields.Parsed(e, "cache", ParseCacheURL)
	from.Access = decodeAccess(e)
	from.RequireSigs = e.Flag("require_sigs", c.RequireSigs)
	if trusted := keys(e, "trusted_public_keys", nix.ParsePublicKey); len(trusted) > 0 {
		from.PublicKeys, from.PointerPublicKeys = trusted, trusted
	}
	if trusted := keys(e, "pointer_public_keys", nix.ParsePublicKey); len(trusted) > 0 {
		from.PointerPublicKeys = trusted
	}
	return from
}

// decodeAccess takes what says who we are to a store, in the words of
// Concourse's s3 resource.
func decodeAccess(o *fields.Object) blob.Config {
	return blob.Config{
		AccessKeyID:                 o.Text("access_key_id"),
		SecretAccessKey:             o.Text("secret_access_key"),
		SessionToken:                o.Text("session_token"),
		AWSRoleARN:                  o.Text("aws_role_arn"),
		EnableAWSCredsProviderChain: o.Flag("enable_aws_creds_provider_chain", false),
		SkipS3Checksums:             o.Flag("skip_s3_checksums", false),
		ConditionalWrites:           o.OptionalFlag("conditional_writes"),
		Netrc:                       o.Text("netrc"),
		BearerToken:                 o.Text("bearer_token"),
		DisableSSL:                  o.Flag("disable_ssl", false),
		SkipSSLVerification:         o.Flag("skip_ssl_verification", false),
		CACerts:                     o.Texts("ca_certs"),
	}
}

// fillInKeys says what the keys are that the source doesn't name. Our own
// signatures are trusted. A pointer is trusted to those who may sign paths only
// as far as the source doesn't know its signer.
func (c *Config) fillInKeys() {
	if len(c.PointerSigningKeys) == 0 {
		c.PointerSigningKeys = c.SigningKeys
	}
	if len(c.PointerPublicKeys) == 0 {
		c.PointerPublicKeys = pointerKeys(c.PointerSigningKeys, c.PublicKeys)
	}
	c.PublicKeys = union(publicHalves(c.SigningKeys), c.PublicKeys)
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
func keys[Key any](o *fields.Object, key string, parse func(string) (Key, error)) []Key {
	var list []Key
	for _, word := range strings.Fields(strings.Join(o.Texts(key), " ")) {
		k, err := parse(word)
		if err != nil {
			o.FailWith(key, err)
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
