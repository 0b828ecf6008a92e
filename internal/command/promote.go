package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/download"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/publish"
	"github.com/nixos-closure/nixos-closure-resource/internal/regular"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

func newPromote(a *app) *cobra.Command {
	var to []string
	var allowOlder bool
	var m move
	cmd := &cobra.Command{
		Use:   "promote REF",
		Short: "Move the pointer to what was tested under another one",
		Long: `Give the settings' pointer a generation with the path of another pointer's: nothing
is built, and nothing is uploaded that is in the cache. If the settings have from, the
other pointer is in that cache. REF may also be the directory of a get or a fetch.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := publish.Request{AllowOlder: allowOlder}
			for _, name := range to {
				parsed, err := pointer.ParseName(name)
				if err != nil {
					return hint.Usage(err)
				}
				r.To = append(r.To, parsed)
			}
			s, _, err := a.open(cmd.Context(), "")
			if err != nil {
				return err
			}
			if r.Candidate, err = promotion(cmd.Context(), s, args[0]); err != nil {
				return err
			}
			return a.publish(cmd.Context(), s, m, r)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&to, "to", nil, "further `pointers` to move, before the settings' own")
	flags.BoolVar(&allowOlder, "allow-older", false, "promote it although something newer is there")
	m.addFlags(flags)
	return cmd
}

// promotion returns what a person names to be promoted: the directory of a get, or
// a reference.
func promotion(ctx context.Context, s *site.Site, name string) (publish.Promotion, error) {
	if _, err := os.Stat(filepath.Join(name, download.GenerationFile)); err == nil {
		return readPromotion(name)
	}
	r, err := parseReference(name)
	if err != nil {
		return publish.Promotion{}, err
	}
	if r.pointer == "" {
		return publish.Promotion{}, hint.Usage(hint.With(errors.New("promoted from which pointer?"), "want POINTER, POINTER:12, or the directory of a get"))
	}
	return publish.FindPromotion(ctx, s, r.pointer, r.number)
}

// readPromotion reads the generation that a get or a fetch has left.
func readPromotion(dir string) (p publish.Promotion, err error) {
	const longest = 16 * pointer.MaxEntry // indented, and by later versions
	name, err := regular.ReadNamed(filepath.Join(dir, "pointer"), longest)
	if err != nil {
		return p, err
	}
	if p.Pointer, err = pointer.ParseName(strings.TrimSpace(string(name))); err != nil {
		return p, fmt.Errorf("%s: %w", filepath.Join(dir, "pointer"), err)
	}
	file := filepath.Join(dir, download.GenerationFile)
	data, err := regular.ReadNamed(file, longest)
	if err == nil {
		err = json.Unmarshal(data, &p.Generation)
	}
	if err != nil {
		return p, fmt.Errorf("%s: %w", file, err)
	}
	if cache := filepath.Join(dir, "cache"); isDir(cache) {
		p.CacheDir = cache
	}
	return p, nil
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
