package nix

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nix-community/go-nix/pkg/narinfo/signature"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// A Signature is a key's name and 64 bytes of Ed25519, written name:base64.
type Signature = signature.Signature

// ParseSignature parses name:base64.
func ParseSignature(s string) (Signature, error) { return signature.ParseSignature(s) }

// A SecretKey signs. It never prints: every way of formatting it gives its
// name alone.
type SecretKey struct {
	key signature.SecretKey
}

// ParseSecretKey parses what `nix key generate-secret` writes,
// <name>:<base64 of 64 bytes>. Its errors don't quote s.
func ParseSecretKey(s string) (SecretKey, error) {
	s = strings.TrimSpace(s)
	key, err := signature.LoadSecretKey(s)
	if err == nil {
		if !halvesMatch(key) {
			return SecretKey{}, hint.With(fmt.Errorf("the secret key %s is damaged: its halves don't belong together", key.ToPublicKey().Name),
				"take it from where it was made, whole")
		}
		return SecretKey{key}, nil
	}
	if public, err := signature.ParsePublicKey(s); err == nil {
		return SecretKey{}, hint.With(fmt.Errorf("this is the public key %s, where the secret key belongs", public.Name),
			"the secret half is what Nix wrote into the first of the two files; its base64 part has 88 characters")
	}
	return SecretKey{}, hint.With(errors.New("this is not a secret key of Nix: want <name>:<base64 of 64 bytes>"),
		"make one with: nix-store --generate-binary-cache-key cache.example.org-1 secret-key public-key")
}

// halvesMatch says whether what key signs can be verified by its public half,
// which is stored beside the secret one.
func halvesMatch(key signature.SecretKey) bool {
	const probe = "nixos-closure"
	sig, err := key.Sign(nil, probe)
	return err == nil && key.ToPublicKey().Verify(probe, sig)
}

// Name is the key's name, as signatures carry it.
func (k SecretKey) Name() string { return k.Public().Name() }

// Public is the public half.
func (k SecretKey) Public() PublicKey { return publicKeyOf(k.key.ToPublicKey()) }

// Sign signs text.
func (k SecretKey) Sign(text string) Signature {
	sig, err := k.key.Sign(nil, text)
	if err != nil {
		panic(err) // Ed25519 signing of a valid key does not fail
	}
	return sig
}

// Format keeps the key out of every message, whatever the verb.
func (k SecretKey) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "secret key %s", k.Name()) }

// A PublicKey verifies. It is comparable.
type PublicKey struct {
	name string
	data [32]byte
}

func publicKeyOf(key signature.PublicKey) PublicKey {
	return PublicKey{key.Name, [32]byte(key.Data)}
}

// ParsePublicKey parses <name>:<base64 of 32 bytes>, as in trusted-public-keys.
// Its errors don't quote s: it may be a secret key put in the wrong place.
func ParsePublicKey(s string) (PublicKey, error) {
	s = strings.TrimSpace(s)
	key, err := signature.ParsePublicKey(s)
	if err == nil {
		return publicKeyOf(key), nil
	}
	if secret, err := signature.LoadSecretKey(s); err == nil {
		return PublicKey{}, hint.With(fmt.Errorf("this is the secret key %s, where a public key belongs", secret.ToPublicKey().Name),
			"replace it by its public half, %s, and treat the secret as disclosed", secret.ToPublicKey())
	}
	return PublicKey{}, hint.With(errors.New("this is not a public key of Nix: want <name>:<base64 of 32 bytes>"),
		"nix key convert-secret-to-public gives it from the secret key")
}

// Name is the key's name, as signatures carry it.
func (k PublicKey) Name() string { return k.name }

// String is <name>:<base64>.
func (k PublicKey) String() string {
	return k.name + ":" + base64.StdEncoding.EncodeToString(k.data[:])
}

// Verify says whether sig is this key's signature of text. What it has found
// true it remembers: on its way through a put, the same narinfo is judged several
// times.
func (k PublicKey) Verify(text string, sig Signature) bool {
	var statement []byte
	for _, part := range [...]string{k.name, string(k.data[:]), sig.Name, string(sig.Data), text} {
		statement = append(append(strconv.AppendInt(statement, int64(len(part)), 10), ':'), part...)
	}
	id := sha256.Sum256(statement)
	if verified.has(id) {
		return true
	}
	if !(signature.PublicKey{Name: k.name, Data: k.data[:]}).Verify(text, sig) {
		return false
	}
	verified.add(id)
	return true
}

// verified are the hashes of statements, each of a key, a signature and a text,
// that are true.
var verified statements

// maxStatements bounds what is remembered, to a few MiB.
const maxStatements = 1 << 16

type statements struct {
	mu sync.RWMutex
	is map[[sha256.Size]byte]struct{}
}

func (s *statements) has(id [sha256.Size]byte) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.is[id]
	return ok
}

func (s *statements) add(id [sha256.Size]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.is == nil || len(s.is) == maxStatements {
		s.is = make(map[[sha256.Size]byte]struct{})
	}
	s.is[id] = struct{}{}
}

// Keys are public keys, any of which will do.
type Keys []PublicKey

// Verify says whether any of the signatures of text is by any of the keys.
// (Names are labels: several keys may bear the same one.)
func (ks Keys) Verify(text string, sigs []Signature) bool {
	return slices.ContainsFunc(sigs, func(sig Signature) bool {
		return slices.ContainsFunc(ks, func(k PublicKey) bool { return k.Verify(text, sig) })
	})
}

// Names lists the keys' names, for messages.
func (ks Keys) Names() string {
	if len(ks) == 0 {
		return "none"
	}
	names := make([]string, len(ks))
	for i, k := range ks {
		names[i] = k.name
	}
	return strings.Join(names, ", ")
}
