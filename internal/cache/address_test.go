package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
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
			path = addressed(t, kind, sum[:])
			publish := func(content string) blob.Store {
				s := &store{}
				s.set(t, path, content)
				place := blob.NewMemory()
				push(t, New(place, Config{}), s, path)
				place.Delete(t.Context(), manifestKey(path))
				edit(t, place, path, func(text string) string { return strings.TrimRight(text, "\n") + "\nCA: " + ca + "\n" })
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
				edit(t, place, path, func(text string) string {
					return string(bytes.Replace([]byte(text), []byte("CA: text:"), []byte("CA: fixed:"), 1))
				})
				wantError(t, reader(place), "content address")
			}
		})
	}
}

// What we sign must hold. A store that says of a path that it has a content address
// which doesn't fit, or which the content doesn't bear out, gets its path into the
// cache without; Nix would not take it otherwise.
func TestPushLeavesOutFalseAddresses(t *testing.T) {
	key := newKey(t, "test-1")
	honest := &store{}
	content := "the content"
	sum := sha256.Sum256([]byte(content))
	text := "text:sha256:" + nixbase32.EncodeToString(sum[:])
	path := addressed(t, "text", sum[:])
	honest.set(t, path, content)
	honest.infos[0].CA = address(t, text)
	other := sha256.Sum256([]byte("another content"))
	for _, test := range []struct {
		name    string
		content string
		ca      string
		kept    bool
	}{
		{"true", content, text, true},
		{"not that of the content", "another content", text, false},
		{"not that of the path", content, "text:sha256:" + nixbase32.EncodeToString(other[:]), false},
		{"not that of the path, of the NAR", content, "fixed:r:sha256:" + nixbase32.EncodeToString(sum[:]), false},
		{"one of git", content, "fixed:git:sha1:" + nixbase32.EncodeToString(sum[:20]), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &store{}
			s.set(t, path, test.content)
			s.infos[0].CA = address(t, test.ca)
			place := blob.NewMemory()
			c := New(place, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}})
			pushed := push(t, c, s, path)
			if got := pushed.Closure.RootInfo().CA; test.kept != (got == address(t, text)) || test.kept == (len(pushed.Unaddressed) == 1) {
				t.Errorf("the narinfo has the address %q; left out: %v", got, pushed.Unaddressed)
			}
			if err := c.Fetch(t.Context(), pushed.Closure, &store{}, nil); err != nil {
				t.Error(err)
			}

			// An honest push of the same path is none the worse for it.
			push(t, New(place, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}}), honest, path)

			// Where nobody signs, such a path is nobody's.
			unsigned := New(blob.NewMemory(), Config{RequireSigs: true, PublicKeys: nix.Keys{key.Public()}})
			_, err := unsigned.Push(t.Context(), PushRequest{Root: path, Infos: s.infos, Source: s})
			if test.kept != (err == nil) {
				t.Errorf("without a key: %v", err)
			}
		})
	}
}

// addressed is the path, called a-text, of a content address of that kind.
func addressed(t *testing.T, kind string, sum []byte) nix.StorePath {
	t.Helper()
	hashPart := sha256.Sum256([]byte(kind + ":sha256:" + hex.EncodeToString(sum) + ":/nix/store:a-text"))
	for i := 20; i < 32; i++ {
		hashPart[i-20] ^= hashPart[i]
	}
	path, err := nix.ParseBaseName(nixbase32.EncodeToString(hashPart[:20]) + "-a-text")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// What is written is read back first: whatever got into a narinfo or a manifest
// that isn't a value, doesn't get into the cache.
func TestCheckTexts(t *testing.T) {
	s := &store{}
	path := s.add(t, "hello", "the content")
	ni := NarInfo{PathInfo: s.infos[0], URL: "nar/x.nar", Compression: "none", FileHash: nix.Hash{1}, FileSize: 1}
	if err := ni.checkText(); err != nil {
		t.Error(err)
	}
	if err := checkManifest(formatManifest([]NarInfo{ni, ni}), []NarInfo{ni, ni}); err != nil {
		t.Error(err)
	}
	for _, url := range []string{"nar/x\nStorePath: " + path.String(), "nar/x\nSig: a:b", "nar/x\n\n" + ni.Text()} {
		forged := NarInfo{PathInfo: s.infos[0], URL: url, Compression: "none"}
		if err := forged.checkText(); err == nil {
			t.Errorf("the URL %q passes", url)
		}
		if err := checkManifest(formatManifest([]NarInfo{forged, ni}), []NarInfo{forged, ni}); err == nil {
			t.Errorf("the URL %q passes in a manifest", url)
		}
	}

	// Upstream is a line of its own.
	ni.Compression = "Upstream: https://example.org"
	if text, upstream := cutUpstream(strings.TrimSuffix(formatManifest([]NarInfo{ni}), "\n")); upstream != "" {
		t.Errorf("a line with Upstream in it was cut to %q and %q", text, upstream)
	}
}

// address parses a content address.
func address(t *testing.T, text string) nix.ContentAddress {
	t.Helper()
	ca, err := nix.ParseContentAddress(text)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}
