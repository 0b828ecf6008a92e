package changes

import (
	"maps"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Package is all store paths whose names differ only in version and output.
type Package struct {
	Name   string `json:"name"`
	Before Share  `json:"before,omitzero"` // zero if it is not in that closure
	After  Share  `json:"after,omitzero"`
}

// A Share is what a package has in a closure.
type Share struct {
	Versions []string `json:"versions"` // sorted, each once; "" stands for none in a name
	NarSize  int64    `json:"narSize"`  // of all its paths, in bytes
}

// sizeThreshold is from how many bytes on a change of size alone is one.
const sizeThreshold = 8 << 10

// comparePackages returns the packages that changed, by name.
func comparePackages(before, after []nix.PathInfo) []Package {
	old, young := shares(before), shares(after)
	names := maps.Clone(old)
	maps.Copy(names, young)
	changed := []Package{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		p := Package{name, old[name], young[name]}
		if p.grows() != 0 || !slices.Equal(p.Before.Versions, p.After.Versions) {
			changed = append(changed, p)
		}
	}
	return changed
}

// shares sorts a closure into packages. The versions of none are nil.
func shares(infos []nix.PathInfo) map[string]Share {
	all := map[string]Share{}
	for _, info := range infos {
		name, version := split(info.Path.Name())
		s := all[name]
		if i, found := slices.BinarySearch(s.Versions, version); !found {
			s.Versions = slices.Insert(s.Versions, i, version)
		}
		s.NarSize += info.NarSize
		all[name] = s
	}
	return all
}

// split divides a store path's name into package and version where nix store
// diff-closures does: a last word in lower case is taken for an output; the
// version begins at the first dash before something else than a letter.
func split(name string) (pkg, version string) {
	if i := strings.LastIndexByte(name, '-'); i >= 0 && isOutput(name[i+1:]) {
		name = name[:i]
	}
	for i := range len(name) - 1 {
		if name[i] == '-' && !isLetter(name[i+1]) {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}

func isOutput(word string) bool {
	lower := strings.IndexFunc(word, func(r rune) bool { return r < 'a' || r > 'z' }) < 0
	return word != "" && lower || word == "lib32" || word == "lib64"
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// grows is by how many bytes the package grows, or 0 if it isn't worth telling.
func (p Package) grows() int64 {
	if d := p.After.NarSize - p.Before.NarSize; d <= -sizeThreshold || d >= sizeThreshold {
		return d
	}
	return 0
}
