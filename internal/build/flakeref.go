package build

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixcmd"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A FlakeRef is a reference to a flake as nixos-rebuild takes it: a directory or
// a URL that Nix knows, perhaps with the name of a host behind a #.
type FlakeRef struct {
	URL   string
	Dir   string // cleaned, if there is no URL
	Query string // what follows the directory, such as dir=nixos
	Host  string // what follows #, as in nixos-rebuild --flake config#web-1
}

// ParseFlakeRef parses a reference. It doesn't look whether anything is there.
func ParseFlakeRef(s string) (FlakeRef, error) {
	rest, host, _ := strings.Cut(s, "#")
	switch {
	case rest == "":
		return FlakeRef{}, hint.With(errors.New("it names no flake"), "name a directory, such as config, or a flake's URL, such as github:example/hosts")
	case strings.ContainsAny(host, `"^`) || strings.HasPrefix(host, "nixosConfigurations."):
		return FlakeRef{}, hint.With(fmt.Errorf("what follows # is the name of a host, and %s is none", host),
			"name the flake %s without it, and any other attribute by %s", rest, hint.Term("attribute: "+host))
	}
	if urlScheme.MatchString(rest) {
		return FlakeRef{URL: rest, Host: host}, nil
	}
	dir, query, _ := strings.Cut(rest, "?")
	if _, err := url.ParseQuery(query); err != nil {
		return FlakeRef{}, fmt.Errorf("%s: %w", rest, err)
	}
	return FlakeRef{Dir: filepath.Clean(dir), Query: query, Host: host}, nil
}

var (
	urlScheme   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)
	localScheme = regexp.MustCompile(`^(path|file|[a-z]+\+file):`)
)

// IsLocalURL says whether the reference is a URL of something on this machine.
func (r FlakeRef) IsLocalURL() bool { return localScheme.MatchString(r.URL) }

// IsZero says whether r names no flake.
func (r FlakeRef) IsZero() bool { return r == FlakeRef{} }

// FlakeDir is the directory, relative to what Dir is relative to, that flake.nix is
// in.
func (r FlakeRef) FlakeDir() string {
	params, _ := url.ParseQuery(r.Query) // it was parsed before
	return filepath.Join(r.Dir, params.Get("dir"))
}

// Resolved returns the reference as Nix wants it, given where Dir is on this
// machine, without symlinks.
func (r FlakeRef) Resolved(dir string) string {
	switch {
	case r.URL != "":
		return r.URL
	case r.Query != "":
		return dir + "?" + r.Query
	}
	return dir
}

// SetHost sets the attribute of an installable that none was named for: that of
// the host that the reference names or, failing that, of the host that has the
// pointer's name. It returns which host that is; "" if an attribute was named.
func (r FlakeRef) SetHost(i *nixcmd.Installable, name pointer.Name) string {
	if i.Attribute != "" || i.Flake == "" {
		return ""
	}
	host := cmp.Or(r.Host, string(name))
	i.Attribute = Toplevel(host)
	return host
}

// ParseAttribute checks the path of an attribute.
func ParseAttribute(s string) (string, error) {
	if s == "" {
		return "", errors.New("it is empty")
	}
	if strings.Contains(s, "^") {
		return "", hint.With(errors.New("it has a ^"), "name an output of a derivation as an attribute of it: web-1.dev")
	}
	return s, nil
}
