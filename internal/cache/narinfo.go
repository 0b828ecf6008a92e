package cache

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nix-community/go-nix/pkg/narinfo"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A NarInfo describes a path of the cache and the file that holds its NAR.
type NarInfo struct {
	nix.PathInfo
	URL         string   // key of the NAR's file in the cache
	Compression string   // of that file
	FileHash    nix.Hash // of that file; zero if the narinfo doesn't say
	FileSize    int64    // of that file, in bytes; 0 if the narinfo doesn't say

	text string // as it lies in the cache, with what we don't know
	from *Cache // the substituter that has it; nil if that is the cache itself
}

// maxNarInfoSize bounds the text of one narinfo, in bytes. (Ten thousand
// references take 0.5 MiB.)
const maxNarInfoSize = 1 << 20

// ParseNarInfo parses a narinfo as Nix does: unknown keys are ignored, a missing
// Compression means bzip2, and FileHash and FileSize may be of any kind, since
// NarHash is what counts. What Nix takes on trust is checked: no key
// that may stand once stands twice, and URL stays inside the cache.
//
// go-nix's parser is not used because it fails on keys that Nix ignores, takes
// the last of repeated keys, and allocates 1 MiB for each text; see
// docs/decisions.md.
func ParseNarInfo(text string) (NarInfo, error) {
	ni := NarInfo{text: text}
	seen := make(map[string]bool, 10)
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			if strings.TrimSpace(line) == "" {
				continue
			}
			return NarInfo{}, fmt.Errorf("line %q has no colon", clip(line))
		}
		value = strings.TrimPrefix(value, " ")
		if err := ni.set(key, value); err != nil {
			return NarInfo{}, fmt.Errorf("%s: %w", key, err)
		}
		if seen[key] && key != "Sig" {
			return NarInfo{}, fmt.Errorf("%s stands there twice", key)
		}
		seen[key] = true
	}
	for _, key := range []string{"StorePath", "URL", "NarHash", "NarSize"} {
		if !seen[key] {
			return NarInfo{}, fmt.Errorf("%s is missing", key)
		}
	}
	if ni.Compression == "" {
		ni.Compression = "bzip2"
	}
	return ni, nil
}

func (ni *NarInfo) set(key, value string) (err error) {
	switch key {
	case "StorePath":
		ni.Path, err = nix.ParseStorePath(value)
	case "URL":
		ni.URL = value
		if !blob.ValidKey(value) || strings.Contains(value, "://") {
			err = fmt.Errorf("%q leads out of the cache", clip(value))
		}
	case "Compression":
		ni.Compression = value
	case "FileHash": // if it is one that we can hold the file against
		ni.FileHash, _ = nix.ParseHash(value)
	case "FileSize": // 0 is what some caches write that don't know
		ni.FileSize, _ = parseSize(value, plausibleFileSize(nix.MaxNarSize))
	case "NarHash":
		ni.NarHash, err = nix.ParseHash(value)
	case "NarSize":
		ni.NarSize, err = parseSize(value, nix.MaxNarSize)
	case "References":
		for ref := range strings.FieldsSeq(value) {
			path, err := nix.ParseBaseName(ref)
			if err != nil {
				return err
			}
			ni.References = append(ni.References, path)
		}
		ni.References = nix.SortPaths(ni.References)
	case "Deriver":
		if value != "" && value != "unknown-deriver" {
			ni.Deriver, err = nix.ParseBaseName(value)
		}
	case "Sig":
		// One in a form that we don't know is no reason to refuse the others.
		if sig, err := nix.ParseSignature(value); err == nil {
			ni.Signatures = append(ni.Signatures, sig)
		}
	case "CA":
		ni.CA, err = nix.ParseContentAddress(value)
	}
	return err
}

func parseSize(s string, max int64) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || n > max {
		return 0, fmt.Errorf("%q is not a size in bytes", clip(s))
	}
	return n, nil
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// owner is the cache that has the path, and by whose keys it is judged, where c
// is the one that was asked.
func (ni *NarInfo) owner(c *Cache) *Cache {
	if ni.from != nil {
		return ni.from
	}
	return c
}

// Upstream is the URL of the substituter that has the path, or empty if the
// cache itself has it.
func (ni *NarInfo) Upstream() string {
	if ni.from == nil {
		return ""
	}
	return ni.from.URL()
}

// Text is the narinfo as it lies in the cache, or as it is to be written.
func (ni *NarInfo) Text() string {
	if ni.text == "" {
		ni.text = ni.format()
	}
	return ni.text
}

// checkText returns an error unless the text, which is about to be written, reads
// as what it was made of.
func (ni *NarInfo) checkText() error {
	back, err := ParseNarInfo(ni.Text())
	if err == nil && !back.equals(ni) {
		err = errors.New("it reads as something else")
	}
	if err != nil {
		return fmt.Errorf("the narinfo that was made for %s is not valid: %w", ni.Path, err)
	}
	return nil
}

// equals says whether two narinfos say the same.
func (ni *NarInfo) equals(other *NarInfo) bool {
	return ni.Fingerprint() == other.Fingerprint() && ni.Deriver == other.Deriver && ni.CA == other.CA &&
		ni.URL == other.URL && ni.Compression == other.Compression && ni.FileHash == other.FileHash && ni.FileSize == other.FileSize &&
		slices.EqualFunc(ni.Signatures, other.Signatures, func(a, b nix.Signature) bool { return a.String() == b.String() })
}

func (ni *NarInfo) format() string {
	out := narinfo.NarInfo{
		StorePath:   ni.Path.String(),
		URL:         ni.URL,
		Compression: ni.Compression,
		NarHash:     ni.NarHash.NixHash(),
		NarSize:     uint64(ni.NarSize),
		Deriver:     ni.Deriver.Base(),
		CA:          ni.CA.String(),
		Signatures:  ni.Signatures,
	}
	if !ni.FileHash.IsZero() {
		out.FileHash, out.FileSize = ni.FileHash.NixHash(), uint64(ni.FileSize)
	}
	for _, ref := range ni.References {
		out.References = append(out.References, ref.Base())
	}
	return out.String()
}

// addSignatures signs with those keys that haven't signed yet, and adds just
// that to the text. It says whether there were any.
func (ni *NarInfo) addSignatures(keys []nix.SecretKey) bool {
	before := len(ni.Signatures)
	if !ni.Sign(keys) {
		return false
	}
	text := strings.TrimRight(ni.Text(), "\n") + "\n"
	for _, sig := range ni.Signatures[before:] {
		text += "Sig: " + sig.String() + "\n"
	}
	ni.text = text
	return true
}

// signedByAll says whether each of the keys has signed the path.
func (ni *NarInfo) signedByAll(keys []nix.SecretKey) bool {
	return !slices.ContainsFunc(keys, func(k nix.SecretKey) bool { return !ni.SignedBy(nix.Keys{k.Public()}) })
}

// sameContent says whether two infos of a path describe the same thing: all
// that a signature covers.
func sameContent(a, b *nix.PathInfo) bool { return a.Fingerprint() == b.Fingerprint() }

const narinfoSuffix = ".narinfo"

func narinfoKey(path nix.StorePath) string { return path.HashPart() + narinfoSuffix }
