package store

import (
	"fmt"

	"github.com/nix-community/go-nix/pkg/derivation"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// outputs says what a derivation that has been restored makes, as far as it
// can be known beforehand.
func (r *Root) outputs(drv nix.StorePath) (map[string]nix.StorePath, error) {
	f, err := r.store.Open(drv.Base())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// What can't be known is an empty path, which the parser reports along with
	// the derivation.
	parsed, err := derivation.ReadDerivation(f)
	if parsed == nil {
		return nil, fmt.Errorf("reading the derivation %s: %w", drv, err)
	}
	paths := map[string]nix.StorePath{}
	for name, output := range parsed.Outputs {
		if output.Path == "" {
			continue
		}
		if paths[name], err = nix.ParseStorePath(output.Path); err != nil {
			return nil, fmt.Errorf("output %s of %s: %w", name, drv, err)
		}
	}
	return paths, nil
}
