package nix_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The text is Nix's: what it signs, we verify, and the other way round.
func TestSignaturesOfNix(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		store := n.NewStore(t)
		root := store.Build(t, filepath.Join(nixtest.Sample(t), "config", "edge-cases.nix"), "link")
		theirs, ours := nixtest.NewKey(t, "theirs-1"), nixtest.NewKey(t, "ours-1")
		for _, key := range []nixtest.Key{theirs, ours} {
			file := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(file, []byte(key.Secret), 0o600); err != nil {
				t.Fatal(err)
			}
			store.Run(t, "nix", "store", "sign", "--recursive", "--key-file", file, root.String())
		}
		public, err := nix.ParsePublicKey(theirs.Public)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := nix.ParseSecretKey(ours.Secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range store.Closure(t, root) {
			if !info.SignedBy(nix.Keys{public}) {
				t.Errorf("%s: Nix's signature is not accepted", info.Path)
			}
			// Ed25519 is deterministic: with our key Nix has written what we would.
			want := secret.Sign(info.Fingerprint()).String()
			if !slices.ContainsFunc(info.Signatures, func(s nix.Signature) bool { return s.String() == want }) {
				t.Errorf("%s: we sign %s, and Nix %v", info.Path, want, info.Signatures)
			}
		}
	})
}

// A signature is of all that matters: none of it can be changed unseen.
func TestSignatureCoversPath(t *testing.T) {
	key, err := nix.ParseSecretKey(nixtest.NewKey(t, "test-1").Secret)
	if err != nil {
		t.Fatal(err)
	}
	trusted := nix.Keys{key.Public()}
	a, b := mustPath(t, "/nix/store/"+hashPart+"-a"), mustPath(t, "/nix/store/"+hashPart+"-b")
	signed := nix.PathInfo{Path: a, NarHash: nix.Hash{1}, NarSize: 120, References: []nix.StorePath{a, b}}
	want := "1;" + a.String() + ";" + nix.Hash{1}.String() + ";120;" + a.String() + "," + b.String()
	if diff := cmp.Diff(want, signed.Fingerprint()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	signed.Sign([]nix.SecretKey{key})
	if !signed.SignedBy(trusted) {
		t.Fatal("its own signature is not accepted")
	}
	for name, change := range map[string]func(*nix.PathInfo){
		"path":                func(i *nix.PathInfo) { i.Path = b },
		"hash":                func(i *nix.PathInfo) { i.NarHash[0] = 2 },
		"size":                func(i *nix.PathInfo) { i.NarSize++ },
		"a reference less":    func(i *nix.PathInfo) { i.References = i.References[:1] },
		"references in a row": func(i *nix.PathInfo) { i.References = []nix.StorePath{b, a} },
		"no references":       func(i *nix.PathInfo) { i.References = nil },
		"no signature":        func(i *nix.PathInfo) { i.Signatures = nil },
	} {
		forged := signed
		change(&forged)
		if forged.SignedBy(trusted) {
			t.Errorf("%s changed, and the signature is still accepted", name)
		}
	}
}

// Signing adds what is missing, once, and leaves copies alone.
func TestSignAddsWhatIsMissing(t *testing.T) {
	var keys []nix.SecretKey
	for _, name := range []string{"one-1", "two-1"} {
		key, err := nix.ParseSecretKey(nixtest.NewKey(t, name).Secret)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	info := nix.PathInfo{Path: mustPath(t, "/nix/store/"+hashPart+"-a"), NarHash: nix.Hash{1}, NarSize: 120}
	if !info.Sign(keys[:1]) {
		t.Error("the first signature isn't reported")
	}
	info.Signatures = append(make([]nix.Signature, 0, 8), info.Signatures...) // room to grow in place
	same := info
	if !info.Sign(keys) || len(info.Signatures) != 2 || info.Signatures[0].String() != same.Signatures[0].String() {
		t.Errorf("want one signature added behind the other, got %v", info.Signatures)
	}
	if len(same.Signatures) != 1 || same.Signatures[:2][1].Name != "" {
		t.Error("signing one has changed its copy")
	}
	if info.Sign(keys) || len(info.Signatures) != 2 {
		t.Errorf("signed again: %v", info.Signatures)
	}
}
