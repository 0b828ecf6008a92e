package nixtest

import (
	"testing"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"
)

// A Key is a signing key in the words of nix.conf and of a resource's source.
type Key struct {
	Secret string // as nix key generate-secret writes it
	Public string // as trusted-public-keys lists it
}

// NewKey makes a key of that name.
func NewKey(t testing.TB, name string) Key {
	t.Helper()
	secret, public, err := signature.GenerateKeypair(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Key{secret.String(), public.String()}
}
