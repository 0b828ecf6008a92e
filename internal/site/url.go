package site

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A CacheURL is the URL of a cache as it stands in nix.conf, taken apart: what
// the store of bytes has to know, and what concerns the cache that lies in it.
// The zero CacheURL names no cache.
type CacheURL struct {
	Store *url.URL // the parameters of caches are no longer in it

	Compression      string // empty: not said
	CompressionLevel int    // 0: not said
	WantMassQuery    *bool  // nil: not said
	Priority         *int   // nil: not said
}

// IsZero says whether c names no cache.
func (c CacheURL) IsZero() bool { return c.Store == nil }

// ParseCacheURL parses a cache's URL with the parameters that Nix documents for
// binary caches ("nix help-stores"). What it doesn't know it refuses. Its errors
// don't quote the URL: a password may be in it.
func ParseCacheURL(s string) (CacheURL, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || u.Scheme == "" {
		return CacheURL{}, hint.With(errors.New("not the URL of a cache"),
			"write it as in nix.conf: s3://bucket?region=eu-central-1, https://cache.example.org or file:///srv/cache")
	}
	if u.Fragment != "" {
		return CacheURL{}, hint.With(errors.New("the URL of a cache has no fragment (#…)"), "write # as %%23")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return CacheURL{}, errors.New("the URL's parameters can't be read: want name=value&name=value")
	}
	c := CacheURL{Store: u}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if u.Scheme == "s3" && slices.Contains(s3Parameters, name) {
			continue
		}
		set, ok := cacheParameters[name]
		if !ok {
			return CacheURL{}, unknownParameter(name, u.Scheme)
		}
		if err := set(&c, query.Get(name)); err != nil {
			return CacheURL{}, fmt.Errorf("the URL's parameter %s: %w", name, err)
		}
		query.Del(name)
	}
	u.RawQuery = query.Encode()
	return c, nil
}

func unknownParameter(name, scheme string) error {
	known := slices.Sorted(maps.Keys(cacheParameters))
	if scheme == "s3" {
		known = append(known, s3Parameters...)
	} else if slices.Contains(s3Parameters, name) {
		return fmt.Errorf("the URL's parameter %s is one of s3:// caches, not of %s://", name, scheme)
	}
	advice := "nix help-stores lists them"
	if near := hint.Nearest(name, known); near != "" {
		advice = "did you mean " + near + "?"
	}
	return hint.With(fmt.Errorf("the URL's parameter %s is unknown", name), "%s", advice)
}

// s3Parameters are left to the store.
var s3Parameters = []string{
	"addressing-style", "buffer-size", "endpoint", "multipart-chunk-size", "multipart-threshold",
	"multipart-upload", "profile", "region", "scheme", "storage-class",
}

// cacheParameters are those of every cache.
var cacheParameters = map[string]func(c *CacheURL, value string) error{
	"compression": func(c *CacheURL, value string) error {
		if !cache.CanCompress(value) {
			return fmt.Errorf("NARs are written with zstd, xz or none, not with %s", value)
		}
		c.Compression = value
		return nil
	},
	"compression-level": func(c *CacheURL, value string) error {
		level, err := strconv.Atoi(value)
		if err != nil || level < -1 || level > 22 {
			return fmt.Errorf("want -1 (the default) to 22, got %s", value)
		}
		c.CompressionLevel = max(0, level)
		return nil
	},
	"want-mass-query": func(c *CacheURL, value string) error {
		want, err := parseNixBool(value)
		c.WantMassQuery = &want
		return err
	},
	"priority": func(c *CacheURL, value string) error {
		priority, err := strconv.Atoi(value)
		if err != nil || priority < 0 {
			return fmt.Errorf("want a number, 0 or more, got %s", value)
		}
		c.Priority = &priority
		return nil
	},
	"store": func(_ *CacheURL, value string) error {
		if value != nix.StoreDir {
			return fmt.Errorf("closures of the store directory %s are all that is supported", nix.StoreDir)
		}
		return nil
	},

	// What concerns only how Nix goes about it.
	"parallel-compression": ignore, // we always do
	"local-nar-cache":      ignore,
	"path-info-cache-size": ignore,
	"system-features":      ignore,
	"narinfo-compression":  ignore, // narinfos are small; Nix reads them plain
	"ls-compression":       ignore,
	"log-compression":      ignore,

	"index-debug-info":  onlyFalse("no index of debug information is written"),
	"write-nar-listing": onlyFalse("no listings of NARs are written"),
	"trusted":           onlyFalse("to take paths without a signature, set require_sigs: false"),

	"secret-key":  refuseKeyFile,
	"secret-keys": refuseKeyFile,
}

func ignore(*CacheURL, string) error { return nil }

func onlyFalse(advice string) func(*CacheURL, string) error {
	return func(_ *CacheURL, value string) error {
		if on, err := parseNixBool(value); err != nil || on {
			return hint.With(errors.New("only false is supported"), "%s", advice)
		}
		return nil
	}
}

func refuseKeyFile(*CacheURL, string) error {
	return hint.With(errors.New("it names a file, and keys are given by themselves"), "give the key itself: %s", hint.Term("signing_key: ((cache.signing_key))"))
}

// parseNixBool parses a boolean as Nix's settings have it.
func parseNixBool(s string) (bool, error) {
	switch s {
	case "true", "yes", "1":
		return true, nil
	case "false", "no", "0":
		return false, nil
	}
	return false, fmt.Errorf("want true or false, got %s", s)
}
