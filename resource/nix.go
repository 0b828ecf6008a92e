package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixstore"
	"github.com/nixos-closure/nixos-closure-resource/internal/substituter"
)

// decodeNix takes what a source says of the Nix that builds. The netrc is that
// of Caches, too: no cache that can be put to wants one.
func decodeNix(o *object, netrc string) nixstore.Settings {
	return nixstore.Settings{
		NoSubstituters: o.has("substituters") && len(o.list("substituters")) == 0,
		Builders:       strings.Join(o.texts("builders"), "\n"),
		Store:          parsed(o, "store", parseStore),
		Lines:          parsed(o, "nix_config", parseNixConfig),
		AccessTokens:   accessTokens(o),
		Netrc:          netrc,
		SSHKey:         parsed(o, "ssh_key", nixstore.ParseSSHKey),
		KnownHosts:     strings.Join(o.texts("ssh_known_hosts"), "\n"),
	}
}

// parseStore checks that a store is another machine's.
func parseStore(text string) (string, error) {
	if !strings.HasPrefix(text, "ssh-ng://") {
		return "", hint.With(errors.New("want the store of another machine, ssh-ng://user@host"),
			"which store of the worker or the image is used, NIX_REMOTE says in the image; the cache that is put to is named by cache")
	}
	return text, nil
}

// parseNixConfig checks the form of lines of a nix.conf. Its errors don't quote
// them: a token may be in there.
func parseNixConfig(text string) (string, error) {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 || len(words) == 2 && (words[0] == "include" || words[0] == "!include") {
			continue
		}
		if len(words) < 2 || words[1] != "=" {
			return "", hint.With(fmt.Errorf("line %d is not one of a nix.conf", number), "write it as there: name = value")
		}
	}
	return text, nil
}

// accessTokens takes tokens by their hosts, as an object, or in Nix's own words:
// host=token, in a list or with spaces between them.
func accessTokens(o *object) string {
	const key = "access_tokens"
	raw, ok := o.raw(key)
	if !ok {
		return ""
	}
	var words []string
	if kindOf(raw) == "an object" {
		tokens := map[string]json.RawMessage{}
		if err := json.Unmarshal(raw, &tokens); err != nil {
			o.failWith(key, errors.New("want tokens by their hosts"))
			return ""
		}
		for _, host := range slices.Sorted(maps.Keys(tokens)) {
			var token string
			if json.Unmarshal(tokens[host], &token) != nil || kindOf(tokens[host]) != "a string" {
				o.fail(key+"."+host, "want a string, got %s", kindOf(tokens[host]))
			}
			words = append(words, host+"="+strings.TrimSpace(token))
		}
	} else {
		words = strings.Fields(strings.Join(o.texts(key), " "))
	}
	for i, word := range words {
		host, token, _ := strings.Cut(word, "=")
		if host == "" || token == "" || strings.ContainsAny(word, " \t\n") {
			o.failWith(key, hint.With(fmt.Errorf("number %d is not a token with its host", i+1),
				"write them as an object, github.com: ((github.token)), or as in nix.conf: github.com=…"))
			return ""
		}
	}
	return strings.Join(words, " ")
}

// openLocal opens the local store, with what the source says of Nix, and serves
// its Nix the source's caches until the publisher is closed. Unless it is zero,
// the closure of the expected path will be asked for.
func (p *publisher) openLocal(ctx context.Context, expected nix.StorePath) (*nixstore.Store, error) {
	if p.local != nil {
		return p.local, nil
	}
	warn := func(err error) { p.Console.Caution(err) }
	caches := p.here.Substituters()
	if p.params.Build != buildAlways { // which doesn't take from a cache what was put there
		caches = slices.Concat([]*cache.Cache{p.here}, caches)
	}
	server, err := substituter.Serve(ctx, warn, caches...)
	if err != nil {
		return nil, err
	}
	settings := p.source.Nix
	settings.Substituters, settings.PublicKeys = server.URLs(), server.PublicKeys()
	log := renamer{p.Console, byTheirNames(settings.Substituters, caches)}
	local, err := nixstore.Open(ctx, nixstore.Options{Log: log, Warn: warn, Settings: settings, Expect: expected})
	if err != nil {
		return nil, errors.Join(err, server.Close())
	}
	p.local, p.server = local, server
	return local, nil
}

// close takes back from Nix what it was offered.
func (p *publisher) close() error {
	if p.local == nil {
		return nil
	}
	return errors.Join(p.local.Close(), p.server.Close())
}

// byTheirNames calls caches in what Nix says as the source does.
func byTheirNames(urls []string, caches []*cache.Cache) *strings.Replacer {
	var pairs []string
	for i, url := range urls {
		served, _, _ := strings.Cut(url, "?") // as Nix calls it
		pairs = append(pairs, served, caches[i].String())
	}
	return strings.NewReplacer(pairs...)
}

// A renamer passes on what is written to it with other names. (A name that is
// written in two pieces stays as it is.)
type renamer struct {
	w     io.Writer
	names *strings.Replacer
}

func (r renamer) Write(p []byte) (int, error) {
	if _, err := r.names.WriteString(r.w, string(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}
