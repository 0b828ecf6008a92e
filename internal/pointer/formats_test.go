package pointer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

const formats = "../../docs/formats.md"

// example returns the contents of the block of docs/formats.md that starts
// with ```info.
func example(t *testing.T, info string) string {
	t.Helper()
	text, err := os.ReadFile(formats)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n```"+info+"\n")
	block, _, ended := strings.Cut(rest, "```\n")
	if !found || !ended {
		t.Fatalf("%s has no block that starts with ```%s", formats, info)
	}
	return block
}

// documentedKey is the secret key of the examples.
func documentedKey(t *testing.T) nix.SecretKey {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	key, err := nix.ParseSecretKey("cache.example.org-1:" + base64.StdEncoding.EncodeToString(ed25519.NewKeyFromSeed(seed)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestDocumentedBounds(t *testing.T) {
	text, err := os.ReadFile(formats)
	if err != nil {
		t.Fatal(err)
	}
	unwrapped := strings.Join(strings.Fields(string(text)), " ")
	for _, want := range []string{
		fmt.Sprintf("Our writer keeps the newest %d.", Keep),
		fmt.Sprintf("must not** take more than %d bytes", MaxEntry),
		fmt.Sprintf("be larger than %d MiB", MaxObject>>20),
		fmt.Sprintf("writer takes at most %d bytes for a new generation", MaxEntry-signatureRoom),
		fmt.Sprintf("has to say, at most %d bytes", MaxMessage),
		fmt.Sprintf("{0,%d}` and does not end in", maxName-1),
		fmt.Sprintf("{1,%d}`", maxSystem),
	} {
		if !strings.Contains(unwrapped, want) {
			t.Errorf("%s doesn't say %q", formats, want)
		}
	}
}

func TestDocumentedPointer(t *testing.T) {
	key, err := nix.ParsePublicKey(example(t, "text public key"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(documentedKey(t).Public().String(), key.String()); diff != "" {
		t.Errorf("public key (-want +got)\n%s", diff)
	}
	store := blob.NewMemory()
	for _, object := range []string{"json pointers/web-1.json", "text pointers/web-1", "json pointers/web-1-candidate.d/31.json"} {
		_, name, _ := strings.Cut(object, " ")
		put(t, store, name, example(t, object))
	}
	p := New(store, Config{Name: "web-1", PublicKeys: nix.Keys{key}, RequireSigs: true})
	history := mustRead(t, p)
	if len(history.Generations) != 2 || history.Skipped != 0 {
		t.Errorf("history is %+v", history)
	}
	wantPlain(t, p)

	newest, _ := history.Newest()
	if diff := cmp.Diff(example(t, "text signed line"), newest.line("web-1")+"\n"); diff != "" {
		t.Errorf("signed line (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(example(t, "text signed details"), newest.Details.text+"\n"); diff != "" {
		t.Errorf("details (-want +got)\n%s", diff)
	}

	candidate := New(store, Config{Name: "web-1-candidate", PublicKeys: nix.Keys{key}, RequireSigs: true})
	origin, err := candidate.findKept(t.Context(), 31)
	if err != nil {
		t.Fatal(err)
	}
	want := &Origin{Pointer: "web-1-candidate", Generation: origin.Number, Signature: origin.Signatures[0].String()}
	if diff := cmp.Diff(want, newest.Details.Origin); diff != "" || origin.Path != newest.Path || origin.NarHash != newest.NarHash {
		t.Errorf("the origin of the promotion is another one (-want +got)\n%s", diff)
	}
}

func TestDocumentedFieldsAreOurs(t *testing.T) {
	// What is written for the documented generations is what is documented, but
	// for white space.
	text := example(t, "json pointers/web-1.json")
	generations, err := decodeHistory("web-1", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, []byte(text)); err != nil {
		t.Fatal(err)
	}
	got, err := encodeHistory("web-1", generations)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
