package nix_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

const ( // of "abc"
	inNix32  = "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s"
	inHex    = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	inBase64 = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
)

// The same hash in all forms in which Nix writes it.
func TestParseHash(t *testing.T) {
	want := nix.Hash(sha256.Sum256([]byte("abc")))
	for _, text := range []string{"sha256:" + inNix32, "sha256:" + inHex, "sha256:" + inBase64, "sha256-" + inBase64} {
		if got, err := nix.ParseHash(text); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
	hash := sha256.New()
	hash.Write([]byte("abc"))
	got := []string{want.String(), want.Nix32(), want.Hex(), nix.SumHash(hash).String(), want.NixHash().String()}
	if diff := cmp.Diff([]string{"sha256:" + inNix32, inNix32, inHex, "sha256:" + inNix32, "sha256:" + inNix32}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if (nix.Hash{}).IsZero() == want.IsZero() {
		t.Error("only the zero value is none")
	}
}

func TestParseHashRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                 "",
		"no algorithm":            inNix32,
		"another algorithm":       "sha512:" + inNix32,
		"an unknown algorithm":    "sha3:" + inNix32,
		"empty":                   "sha256:",
		"too short":               "sha256:" + inNix32[1:],
		"too long":                "sha256:0" + inNix32,
		"not the alphabet":        "sha256:" + "e" + inNix32[1:],
		"more than 256 bits":      "sha256:" + "z" + inNix32[1:],
		"upper case":              "sha256:" + strings.ToUpper(inNix32),
		"SRI of another encoding": "sha256-" + inNix32,
		"white space":             "sha256:" + inNix32 + "\n",
		"several":                 "sha256-" + inBase64 + " sha256-" + inBase64,
		"MD5":                     "md5:900150983cd24fb0d6963f7d28e17f72",
	} {
		if got, err := nix.ParseHash(text); err == nil {
			t.Errorf("%s: %q was read as %v", name, text, got)
		}
	}
}

// Nix hashes and writes as we do.
func TestHashOfNix(t *testing.T) {
	store := nixtest.Current(t).NewStore(t)
	hash, err := nix.ParseHash(store.Run(t, "nix-instantiate", "--eval", "--raw", "--expr", `"sha256:" + builtins.hashString "sha256" "abc"`))
	if err != nil || hash.Nix32() != inNix32 {
		t.Errorf("got %v, %v", hash, err)
	}
	for _, format := range []string{"nix32", "base16", "base64", "sri"} {
		text := store.Run(t, "nix", "hash", "convert", "--hash-algo", "sha256", "--to", format, hash.Hex())
		if format != "sri" {
			text = "sha256:" + text
		}
		if got, err := nix.ParseHash(text); err != nil || got != hash {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, hash)
		}
	}
}
