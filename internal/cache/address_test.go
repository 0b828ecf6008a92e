package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A content address stands in for a signature only if the content has it: the
// path, the address and all hashes may be consistent and the content another.
func TestContentAddressInsteadOfSignature(t *testing.T) {
	key := newKey(t, "test-1")
	for _, kind := range []string{"source", "text"} {
		t.Run(kind, func(t *testing.T) {
			s := &store{}
			content := "the content"
			path := s.add(t, "a-text", content)
			sum, ca := sha256.Sum256([]byte(content)), "text:sha256:"
			if kind == "source" {
				sum, ca = sha256.Sum256(s.nars[path]), "fixed:r:sha256:"
			}
			ca += nixbase32.EncodeToString(sum[:])
			hashPart := sha256.Sum256([]byte(kind + ":sha256:" + hex.EncodeToString(sum[:]) + ":/nix/store:a-text"))
			for i := 20; i < 32; i++ {
				hashPart[i-20] ^= hashPart[i]
			}
			path, err := nix.ParseBaseName(nixbase32.EncodeToString(hashPart[:20]) + "-a-text")
			if err != nil {
				t.Fatal(err)
			}
			publish := func(content string) blob.Store {
				s := &store{}
				s.set(t, path, content)
				s.infos[0].CA = ca
				place := blob.NewMemory()
				push(t, New(place, Config{}), s, path)
				return place
			}
			reader := func(place blob.Store) error {
				c := New(place, Config{RequireSigs: true, PublicKeys: nix.Keys{key.Public()}})
				closure, err := c.Closure(t.Context(), path)
				if err != nil {
					return err
				}
				return c.Fetch(t.Context(), closure, &store{}, nil)
			}
			if err := reader(publish(content)); err != nil {
				t.Error(err)
			}
			wantError(t, reader(publish("another content")), "content address")

			// A directory has no address of this kind, whatever its bytes.
			if kind == "text" {
				place := publish(content)
				place.Delete(t.Context(), manifestKey(path))
				edit(t, place, path, func(text string) string {
					return string(bytes.Replace([]byte(text), []byte("CA: text:"), []byte("CA: fixed:"), 1))
				})
				wantError(t, reader(place), "content address")
			}
		})
	}
}
