package report

import (
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// documentedKey is that of the documented report: its 32 secret bytes are 32, 33, … 63.
func documentedKey(t *testing.T) nix.SecretKey {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(32 + i)
	}
	key, err := nix.ParseSecretKey("web-1:" + base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed(seed)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// The documented report is one, as it is written, and so is the signed line.
func TestDocumentedReport(t *testing.T) {
	document, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(label string) string {
		t.Helper()
		_, rest, ok := strings.Cut(string(document), "\n```"+label+"\n")
		text, _, closed := strings.Cut(rest, "\n```")
		if !ok || !closed {
			t.Fatalf("docs/formats.md has no example %q", label)
		}
		return text
	}
	key := documentedKey(t)
	if diff := cmp.Diff(block("text host's public key"), key.Public().String()); diff != "" {
		t.Errorf("the key (-documented +ours)\n%s", diff)
	}
	data := block("json reports/<pointer>/<host>.json")
	r, err := Parse([]byte(data), "web-1", "web-1", nix.Keys{key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	written, err := Sign(r, key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(data+"\n", string(written)); diff != "" {
		t.Errorf("the report (-documented +written)\n%s", diff)
	}
	text, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(block("text signed line of a report"), r.line(string(text))); diff != "" {
		t.Errorf("the signed line (-documented +signed)\n%s", diff)
	}
}
