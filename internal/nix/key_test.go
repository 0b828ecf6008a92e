package nix_test

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// What Nix signs we verify, and what we sign Nix verifies.
func TestKeysOfNix(t *testing.T) {
	store := nixtest.Current(t).NewStore(t)
	secret := store.Run(t, "nix", "key", "generate-secret", "--key-name", "test-1")
	key, err := nix.ParseSecretKey(secret + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if key.Name() != "test-1" || !strings.HasPrefix(key.Public().String(), "test-1:") {
		t.Errorf("named %q and %q", key.Name(), key.Public())
	}
	public, err := nix.ParsePublicKey(key.Public().String())
	if err != nil || public != key.Public() {
		t.Errorf("the public half reads back as %v, %v", public, err)
	}
}

// Nobody can print a secret key by mistake.
func TestSecretKeyNeverPrints(t *testing.T) {
	pair := nixtest.NewKey(t, "test-1")
	key, err := nix.ParseSecretKey(pair.Secret)
	if err != nil {
		t.Fatal(err)
	}
	data := strings.TrimPrefix(pair.Secret, "test-1:")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{key, &key, []nix.SecretKey{key}, struct{ K nix.SecretKey }{key}} {
			if got := fmt.Sprintf(verb, value); strings.Contains(got, data[:12]) {
				t.Errorf("%s of %T shows it: %s", verb, value, got)
			}
		}
	}
}

func TestParseSecretKeyRefuses(t *testing.T) {
	pair, other := nixtest.NewKey(t, "test-1"), nixtest.NewKey(t, "test-1")
	half := func(key string) []byte {
		data, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key, "test-1:"))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	mixed := "test-1:" + base64.StdEncoding.EncodeToString(append(half(pair.Secret)[:32:32], half(other.Public)...))
	for _, test := range []struct{ name, text, want string }{
		{"a public key", pair.Public, "this is the public key test-1"},
		{"halves of two keys", mixed, "its halves don't belong together"},
		{"nothing", "", "not a secret key"},
		{"no name", strings.TrimPrefix(pair.Secret, "test-1"), "not a secret key"},
		{"truncated", pair.Secret[:60], "not a secret key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := nix.ParseSecretKey(test.text)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if len(hint.Of(err)) == 0 {
				t.Error("no hint")
			}
			if len(test.text) > 20 && strings.Contains(err.Error(), test.text[10:20]) {
				t.Errorf("the error quotes what may be a key: %v", err)
			}
		})
	}
}

func TestParsePublicKeyRefusesSecretOne(t *testing.T) {
	pair := nixtest.NewKey(t, "test-1")
	_, err := nix.ParsePublicKey(pair.Secret)
	if err == nil || !strings.Contains(err.Error(), "this is the secret key test-1") {
		t.Fatalf("got %v", err)
	}
	if said := err.Error() + strings.Join(hint.Of(err), ""); !strings.Contains(said, pair.Public) || strings.Contains(said, pair.Secret) {
		t.Errorf("want its public half named and nothing else: %s", said)
	}
}

// Names are labels: two keys may bear the same one, and the right one counts.
func TestKeysOfOneName(t *testing.T) {
	var keys nix.Keys
	var last nix.SecretKey
	for range 3 {
		key, err := nix.ParseSecretKey(nixtest.NewKey(t, "test-1").Secret)
		if err != nil {
			t.Fatal(err)
		}
		keys, last = append(keys, key.Public()), key
	}
	sigs := []nix.Signature{last.Sign("another text"), last.Sign("text")}
	if !keys.Verify("text", sigs) {
		t.Error("the matching signature of the matching key was overlooked")
	}
	if keys[:2].Verify("text", sigs) || keys.Verify("text", sigs[:1]) || keys.Verify("text", nil) {
		t.Error("verified what isn't signed")
	}
	if diff := cmp.Diff("test-1, test-1, test-1", keys.Names()); diff != "" {
		t.Error(diff)
	}
}

// What was found true is remembered, and nothing else is taken for it.
func TestVerifyAgain(t *testing.T) {
	one, other := newSecret(t, "test-1"), newSecret(t, "test-1")
	const text = "1;/nix/store/…;sha256:…;5;"
	sig := one.Sign(text)
	damaged := nix.Signature{Name: sig.Name, Data: slices.Clone(sig.Data)}
	damaged.Data[63] ^= 1
	for range 3 {
		for _, test := range []struct {
			key  nix.PublicKey
			text string
			sig  nix.Signature
			want bool
		}{
			{one.Public(), text, sig, true},
			{one.Public(), text + " ", sig, false},
			{one.Public(), text, damaged, false},
			{one.Public(), text, nix.Signature{Name: "test-2", Data: sig.Data}, false},
			{other.Public(), text, sig, false},
		} {
			if got := test.key.Verify(test.text, test.sig); got != test.want {
				t.Errorf("%s of %q by %s: %v", test.sig, test.text, test.key, got)
			}
		}
	}
}

func newSecret(t *testing.T, name string) nix.SecretKey {
	t.Helper()
	key, err := nix.ParseSecretKey(nixtest.NewKey(t, name).Secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func BenchmarkVerify(b *testing.B) {
	pair := nixtest.NewKey(b, "test-1")
	key, err := nix.ParseSecretKey(pair.Secret)
	if err != nil {
		b.Fatal(err)
	}
	text := strings.Repeat("x", 500)
	sig, public := key.Sign(text), key.Public()
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			public.Verify(text, sig)
		}
	})
	b.Run("first", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			text := strconv.Itoa(i)
			sig := key.Sign(text)
			b.StartTimer()
			public.Verify(text, sig)
		}
	})
}
