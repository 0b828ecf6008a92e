package resource

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/build"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// decodeTestSource decodes a source with the given keys besides cache and
// pointer.
func decodeTestSource(t *testing.T, keys map[string]any) (site.Config, build.Nix, error) {
	t.Helper()
	fields := map[string]any{"cache": "file:///c", "pointer": "web-1"}
	for key, value := range keys {
		fields[key] = value
	}
	data, err := json.Marshal(map[string]any{"source": fields})
	if err != nil {
		t.Fatal(err)
	}
	r, err := readRequest(strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	config, nix := r.source()
	return config, nix, r.err()
}

func TestSourceKeys(t *testing.T) {
	ours, next := nixtest.NewKey(t, "ours-1"), nixtest.NewKey(t, "ours-2")
	successor := nixtest.NewKey(t, "ours-1") // another key of the same name
	upstream, pointers := nixtest.NewKey(t, "upstream-1"), nixtest.NewKey(t, "pointers-1")
	type trust struct{ Paths, Pointer []string }
	for _, test := range []struct {
		name   string
		source map[string]any
		want   trust
	}{
		{"our own key is trusted", map[string]any{"signing_key": ours.Secret},
			trust{[]string{ours.Public}, []string{ours.Public}}},
		{"an upstream cache's key moves no pointer", map[string]any{"signing_key": ours.Secret, "trusted_public_keys": []string{upstream.Public}},
			trust{[]string{ours.Public, upstream.Public}, []string{ours.Public}}},
		{"a key of the same name is ours, too", map[string]any{"signing_key": ours.Secret, "trusted_public_keys": []string{upstream.Public, successor.Public}},
			trust{[]string{ours.Public, upstream.Public, successor.Public}, []string{ours.Public, successor.Public}}},
		{"several keys of ours", map[string]any{"signing_key": []string{ours.Secret, next.Secret}},
			trust{[]string{ours.Public, next.Public}, []string{ours.Public, next.Public}}},
		{"a key of its own for the pointer", map[string]any{"signing_key": ours.Secret, "pointer_signing_key": pointers.Secret},
			trust{[]string{ours.Public}, []string{pointers.Public}}},
		{"readers that name the pointer's key", map[string]any{"trusted_public_keys": upstream.Public, "pointer_public_keys": pointers.Public},
			trust{[]string{upstream.Public}, []string{pointers.Public}}},
		{"readers that don't", map[string]any{"trusted_public_keys": upstream.Public + " " + ours.Public},
			trust{[]string{upstream.Public, ours.Public}, []string{upstream.Public, ours.Public}}},
		{"listed twice", map[string]any{"signing_key": ours.Secret, "trusted_public_keys": []string{ours.Public + "\n" + ours.Public}},
			trust{[]string{ours.Public}, []string{ours.Public}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			source, _, err := decodeTestSource(t, test.source)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, trust{texts(source.PublicKeys), texts(source.PointerPublicKeys)}); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func texts(keys nix.Keys) []string {
	var list []string
	for _, key := range keys {
		list = append(list, key.String())
	}
	return list
}

func TestSourceRefuses(t *testing.T) {
	ours := nixtest.NewKey(t, "ours-1")
	for _, test := range []struct {
		name   string
		source map[string]any
		want   []string
	}{
		{"nobody is trusted", nil, []string{
			"error: source.trusted_public_keys: no key is trusted, so nothing in the cache could be accepted",
			"hint: name the keys that sign the cache with trusted_public_keys, or set require_sigs: false for a cache that nobody signs",
		}},
		{"a public key for a secret one", map[string]any{"signing_key": ours.Public}, []string{
			"error: source.signing_key: this is the public key ours-1, where the secret key belongs",
			"hint: the secret half is what Nix wrote into the first of the two files; its base64 part has 88 characters",
		}},
		{"a secret key for a public one", map[string]any{"trusted_public_keys": []string{ours.Secret}}, []string{
			"error: source.trusted_public_keys: this is the secret key ours-1, where a public key belongs",
			"hint: replace it by its public half, " + ours.Public + ", and treat the secret as disclosed",
		}},
		{"no key at all", map[string]any{"signing_key": "s3cret", "require_sigs": false}, []string{
			"error: source.signing_key: this is not a secret key of Nix: want <name>:<base64 of 64 bytes>",
			"hint: make one with: nix-store --generate-binary-cache-key cache.example.org-1 secret-key public-key",
		}},
		{"no lifetime", map[string]any{"signing_key": ours.Secret, "expires_after": "1 week"}, []string{
			`error: source.expires_after: want a time of a minute or more, such as 168h or 7d, got "1 week"`,
		}},
		{"no such disclosure", map[string]any{"signing_key": ours.Secret, "provenance": "some"}, []string{
			`error: source.provenance: want full, minimal or none, got "some"`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := decodeTestSource(t, test.source)
			if diff := cmp.Diff(test.want, told(err)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			for _, secret := range []string{ours.Secret, "s3cret"} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Error("the error quotes a secret")
				}
			}
		})
	}
}
