package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/resource"
)

// A publication is what push and promote ask of a put.
type publication struct {
	message, ifGeneration string
}

func (p *publication) addFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&p.message, "message", "m", "", "`why`, for those who read the history")
	flags.StringVar(&p.ifGeneration, "if-generation", "", "move the pointer only if this `number` is its newest generation's; 0: if it has none")
}

// publish runs a put with params. Its directory of inputs is /, so what inRoot
// makes of the name of any file will do.
func (a *app) publish(ctx context.Context, p publication, params map[string]any) error {
	source, err := a.settings.source("")
	if err != nil {
		return err
	}
	if p.message != "" {
		params["message"] = p.message
	}
	if p.ifGeneration != "" {
		params["if_generation"] = p.ifGeneration
	}
	return a.run(ctx, resource.Out, request{Source: source, Params: params}, "/")
}

// inRoot is the name of a file, from / on. Store paths stay as they are.
func inRoot(name string) (string, error) {
	if strings.HasPrefix(name, nix.StoreDir+"/") {
		return name, nil
	}
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return "", misuse{fmt.Errorf("%s: %w", name, fs.ErrNotExist)}
	}
	// The last part may be a symlink into a store that isn't here; the others are
	// resolved, for a put doesn't follow absolute ones.
	dir, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return "", err
	}
	return filepath.Rel("/", filepath.Join(dir, filepath.Base(name)))
}
