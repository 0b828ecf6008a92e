package hint

import "testing"

func TestNearest(t *testing.T) {
	known := []string{"cache", "pointer", "signing_key", "trusted_public_keys", "require_sigs"}
	for _, test := range []struct{ word, want string }{
		{"trusted_public_key", "trusted_public_keys"},
		{"trusted-public-keys", "trusted_public_keys"}, // as in nix.conf
		{"require-sigs", "require_sigs"},
		{"Pointer", "pointer"},
		{"cahce", "cache"},
		{"signing_keys", "signing_key"},
		{"bucket", ""},
		{"x", ""},
		{"", ""},
	} {
		if got := Nearest(test.word, known); got != test.want {
			t.Errorf("Nearest(%q) = %q, want %q", test.word, got, test.want)
		}
	}
}
