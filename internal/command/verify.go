package command

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

func newVerify(a *app) *cobra.Command {
	var deep, all bool
	cmd := &cobra.Command{
		Use:   "verify [REF]",
		Short: "Find out whether a closure is whole and undamaged in the cache",
		Long: `Find out whether each path of a generation's closure has its narinfo, signed by a
trusted key, and its file, of the right size; with --deep, download each file and
check its hashes. Says what is damaged and what to do about it. Exit status 3
means damage.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, p, generations, err := a.toVerify(cmd.Context(), args, all)
			if err != nil {
				return err
			}
			reports, err := a.verify(cmd.Context(), s, p.Name, generations, deep)
			if err != nil {
				return err
			}
			if err := a.printReports(reports); err != nil {
				return err
			}
			return verdict(reports)
		},
	}
	cmd.Flags().BoolVar(&deep, "deep", false, "download everything and check the hashes")
	cmd.Flags().BoolVar(&all, "all", false, "verify all generations that the history holds")
	return cmd
}

// toVerify returns the generations to verify: one, or all of its pointer's.
func (a *app) toVerify(ctx context.Context, args []string, all bool) (*site.Site, *site.Pointer, []pointer.Generation, error) {
	if !all {
		g, err := a.findArg(ctx, args, 0)
		return g.site, g.pointer, []pointer.Generation{g.Generation}, err
	}
	name, err := pointerArg(args)
	if err != nil {
		return nil, nil, nil, err
	}
	s, p, err := a.open(ctx, name)
	if err != nil {
		return nil, nil, nil, err
	}
	history, err := a.history(ctx, p)
	if err != nil {
		return nil, nil, nil, err
	}
	return s, p, history.Generations, nil
}

// verify looks at the closures of generations as a host's Nix would, and, if deep,
// downloads them. Damage is not an error, but in the reports.
func (a *app) verify(ctx context.Context, s *site.Site, name pointer.Name, generations []pointer.Generation, deep bool) ([]report, error) {
	roots := make([]nix.StorePath, len(generations))
	for i, g := range generations {
		roots[i] = g.Path
	}
	meter := new(cache.Meter)
	if deep {
		defer a.console.Progress("verifying", meter)()
	}
	verifications, err := s.Cache.Verify(ctx, roots, deep, meter)
	if err != nil {
		return nil, err
	}
	reports := make([]report, len(generations))
	for i, v := range verifications {
		if !v.NarHash.IsZero() {
			root := cache.NarInfo{PathInfo: nix.PathInfo{NarHash: v.NarHash}}
			if err := site.CheckUnchanged(generations[i], &root, s.Cache); err != nil {
				v.Damage = append(v.Damage, cache.Damage{Path: generations[i].Path, Keep: true, Err: err})
			}
		}
		reports[i] = newReport(name, generations[i], v)
	}
	return reports, nil
}

// A report is what was found of a generation, in JSON.
type report struct {
	Pointer    pointer.Name  `json:"pointer"`
	Generation uint64        `json:"generation"`
	Path       nix.StorePath `json:"path"`
	Paths      int           `json:"paths"`   // of the closure
	NarSize    int64         `json:"narSize"` // of what was found of it, in bytes
	Damage     []problem     `json:"damage"`
	Delete     []string      `json:"delete"` // keys in the cache to delete, in this order, before the closure is pushed again
}

type problem struct {
	Path    nix.StorePath `json:"path"`
	Problem string        `json:"problem"`
	Advice  []string      `json:"advice,omitempty"` // if deleting is no remedy
}

func newReport(name pointer.Name, g pointer.Generation, v cache.Verification) report {
	r := report{
		Pointer: name, Generation: g.Number, Path: g.Path,
		Paths: v.Paths, NarSize: v.NarSize, Damage: []problem{}, Delete: append([]string{}, v.Stale()...),
	}
	for _, d := range v.Damage {
		p := problem{Path: d.Path, Problem: d.Err.Error()}
		if d.Keep {
			p.Advice = hint.Worded(d.Err, words)
		}
		r.Damage = append(r.Damage, p)
	}
	return r
}

func (a *app) printReports(reports []report) error {
	if a.asJSON {
		return a.printJSON(reports)
	}
	rows := [][]string{{"GENERATION", "PATHS", "NARSIZE", "DAMAGED", "PATH"}}
	for _, r := range reports {
		rows = append(rows, []string{
			strconv.FormatUint(r.Generation, 10), strconv.Itoa(r.Paths), strconv.FormatInt(r.NarSize, 10), strconv.Itoa(len(r.Damage)), r.Path.String(),
		})
	}
	return a.printTable(rows)
}

// verdict is the error that all the damage amounts to.
func verdict(reports []report) error {
	var problems, stale, advice []string
	for _, r := range reports {
		for _, p := range r.Damage {
			problems = append(problems, p.Problem)
			advice = append(advice, p.Advice...)
		}
		stale = append(stale, r.Delete...)
	}
	if len(problems) == 0 {
		return nil
	}
	err := fmt.Errorf("the cache is damaged:%s", indented(distinct(problems)))
	if len(stale) > 0 {
		err = hint.With(err, "delete these objects from the cache, as far as they are there, and push the closure again, which sends what is missing:%s",
			indented(distinct(stale)))
	}
	for _, text := range distinct(advice) {
		err = hint.With(err, "%s", text)
	}
	return damage{err}
}

// distinct are the texts, each once, in their order.
func distinct(texts []string) (once []string) {
	for _, text := range texts {
		if !slices.Contains(once, text) {
			once = append(once, text)
		}
	}
	return once
}

// indented are the texts, each on a line of its own.
func indented(texts []string) string { return "\n  " + strings.Join(texts, "\n  ") }
