package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/fields"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
)

// DecodeNix takes what a configuration says of the Nix that builds. The netrc is
// that of the caches, too: no cache that can be put to wants one.
func DecodeNix(o *fields.Object) Nix {
	return Nix{
		Settings: nixcmd.Settings{
			Builders:     strings.Join(o.Texts("builders"), "\n"),
			Store:        fields.Parsed(o, "store", parseStore),
			Lines:        fields.Parsed(o, "nix_config", parseNixConfig),
			AccessTokens: accessTokens(o),
			Netrc:        o.Text("netrc"),
			SSHKey:       fields.Parsed(o, "ssh_key", nixcmd.ParseSSHKey),
			KnownHosts:   strings.Join(o.Texts("ssh_known_hosts"), "\n"),
		},
		BuildLogs: o.Flag("build_logs", false),
	}
}

// parseStore checks that a store is another machine's.
func parseStore(text string) (string, error) {
	if !strings.HasPrefix(text, "ssh-ng://") {
		return "", hint.With(errors.New("want the store of another machine, ssh-ng://user@host"),
			"which store of this machine is used, NIX_REMOTE says in its environment; the cache that is pushed to is named by cache")
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
func accessTokens(o *fields.Object) string {
	const key = "access_tokens"
	raw, ok := o.Raw(key)
	if !ok {
		return ""
	}
	var words []string
	if fields.KindOf(raw) == "an object" {
		tokens := map[string]json.RawMessage{}
		if err := json.Unmarshal(raw, &tokens); err != nil {
			o.FailWith(key, errors.New("want tokens by their hosts"))
			return ""
		}
		for _, host := range slices.Sorted(maps.Keys(tokens)) {
			var token string
			if json.Unmarshal(tokens[host], &token) != nil || fields.KindOf(tokens[host]) != "a string" {
				o.Fail(key+"."+host, "want a string, got %s", fields.KindOf(tokens[host]))
			}
			words = append(words, host+"="+strings.TrimSpace(token))
		}
	} else {
		words = strings.Fields(strings.Join(o.Texts(key), " "))
	}
	for i, word := range words {
		host, token, _ := strings.Cut(word, "=")
		if host == "" || token == "" || strings.ContainsAny(word, " \t\n") {
			o.FailWith(key, hint.With(fmt.Errorf("number %d is not a token with its host", i+1),
				"write them as an object, github.com: ((github.token)), or as in nix.conf: github.com=…"))
			return ""
		}
	}
	return strings.Join(words, " ")
}
