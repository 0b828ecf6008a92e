package nix

import (
	"slices"
	"strconv"
	"strings"
)

// MaxNarSize bounds the size of a NAR, in bytes, so that sums of sizes can't
// overflow: a tebibyte for each of millions of paths.
const MaxNarSize = 1 << 40

// A PathInfo is what a store knows of a path: all of it that is signed, and
// what else travels with it.
type PathInfo struct {
	Path       StorePath
	NarHash    Hash
	NarSize    int64       // in bytes, 1 to MaxNarSize
	References []StorePath // sorted, each once; may include Path itself
	Deriver    StorePath   // zero if unknown
	CA         ContentAddress
	Signatures []Signature // in the store's order
}

// Fingerprint is the text that a path's signature signs (Nix,
// src/libstore/path-info.cc): 1;<path>;<NarHash>;<NarSize>;<references>.
func (i *PathInfo) Fingerprint() string {
	refs := make([]string, len(i.References))
	for n, r := range i.References {
		refs[n] = r.String()
	}
	return "1;" + i.Path.String() + ";" + i.NarHash.String() + ";" + strconv.FormatInt(i.NarSize, 10) + ";" + strings.Join(refs, ",")
}

// SignedBy says whether any of the keys has signed the path.
func (i *PathInfo) SignedBy(keys Keys) bool { return keys.Verify(i.Fingerprint(), i.Signatures) }

// Sign adds the signatures of those keys that haven't signed the path yet, and
// says whether there were any. The slice of signatures is replaced, not grown
// in place, so that copies of i don't share it.
func (i *PathInfo) Sign(keys []SecretKey) bool {
	added := false
	for _, key := range keys {
		if i.SignedBy(Keys{key.Public()}) {
			continue
		}
		i.Signatures = append(slices.Clip(slices.Clone(i.Signatures)), key.Sign(i.Fingerprint()))
		added = true
	}
	return added
}

// SortPaths sorts and dedupes references.
func SortPaths(paths []StorePath) []StorePath {
	slices.SortFunc(paths, StorePath.Compare)
	return slices.Compact(paths)
}

// SortInfos returns a copy of infos, sorted by their paths.
func SortInfos(infos []PathInfo) []PathInfo {
	infos = slices.Clone(infos)
	slices.SortFunc(infos, func(a, b PathInfo) int { return a.Path.Compare(b.Path) })
	return infos
}
