package nixcmd

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// realStoreDir is where the files of /nix/store are, for a store setting of Nix
// as it stands in nix.conf or NIX_REMOTE: auto, daemon, local, the directory of
// a store, or local and unix URLs, with root or real among their parameters
// (Nix, src/libstore/store-reference.cc, local-fs-store.hh).
func realStoreDir(setting string) (string, error) {
	base, query, _ := strings.Cut(setting, "?")
	params, err := url.ParseQuery(query)
	if err != nil {
		return "", err
	}
	root := params.Get("root")
	scheme, rest, isURL := strings.Cut(base, "://")
	switch {
	case base == "" || base == "auto":
		if setting == base && machineHasNoStore() {
			root = filepath.Join(dataHome(), "nix", "root")
		}
	case base == "daemon" || base == "local" || isURL && scheme == "unix":
	case isURL && scheme == "local":
		if rest, err = url.PathUnescape(rest); err != nil {
			return "", err
		}
		if rest != "" {
			root = rest
		}
	case !isURL && strings.Contains(base, "/"):
		if root, err = filepath.Abs(base); err != nil {
			return "", err
		}
	default:
		return "", errors.New("its files are not on this machine")
	}
	if real := params.Get("real"); real != "" {
		return real, nil
	}
	return filepath.Join("/", root, nix.StoreDir), nil
}

// machineHasNoStore says whether Nix makes a store in the user's home for want
// of one at /nix.
func machineHasNoStore() bool {
	_, err := os.Stat("/nix/var/nix")
	return errors.Is(err, fs.ErrNotExist) && os.Geteuid() != 0 && os.Getenv("NIX_STORE_DIR") == "" && os.Getenv("NIX_STATE_DIR") == ""
}

// dataHome is where the user's programs keep their data.
func dataHome() string {
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return dir
	}
	return filepath.Join(os.Getenv("HOME"), ".local", "share")
}
