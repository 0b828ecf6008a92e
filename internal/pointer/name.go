package pointer

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// A Name names a pointer, and with it the objects that it is kept in. It
// matches [A-Za-z0-9][A-Za-z0-9._-]{0,127} and does not end in .json or .d,
// which would be other objects of a pointer with a shorter name.
type Name string

const maxName = 128 // bytes

// ParseName returns s as a Name if it may be one.
func ParseName(s string) (Name, error) {
	fail := func(why string) (Name, error) {
		return "", hint.With(fmt.Errorf("%q can't be a pointer's name: %s", s, why),
			"a name has up to %d letters, digits, dots, dashes and underscores, and starts with a letter or digit, like web-1 or web-1.example.org", maxName)
	}
	switch {
	case s == "":
		return fail("it is empty")
	case len(s) > maxName:
		return fail(fmt.Sprintf("it has %d characters", len(s)))
	case strings.ContainsRune("._-", rune(s[0])):
		return fail("it starts with " + s[:1])
	case strings.HasSuffix(s, ".json"), strings.HasSuffix(s, ".d"):
		return fail("names that end in .json or .d are taken by a pointer's other objects")
	}
	for _, r := range s {
		if !isNameByte(r) {
			return fail(fmt.Sprintf("it contains %q", r))
		}
	}
	return Name(s), nil
}

// isNameByte says whether r may be in the name of a pointer or of a system.
func isNameByte(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r)
}

// UnmarshalText reads what ParseName accepts.
func (n *Name) UnmarshalText(text []byte) error {
	parsed, err := ParseName(string(text))
	if err != nil {
		return err
	}
	*n = parsed
	return nil
}

// The keys of a pointer's objects.

func (n Name) historyKey() string { return "pointers/" + string(n) + ".json" }
func (n Name) plainKey() string   { return "pointers/" + string(n) }
func (n Name) keptPrefix() string { return "pointers/" + string(n) + ".d/" }
func (n Name) numberedKey(number uint64) string {
	return n.keptPrefix() + strconv.FormatUint(number, 10) + ".json"
}
