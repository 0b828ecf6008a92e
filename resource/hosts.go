package resource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// hosts says that a put is about several hosts, and about which.
type hosts struct {
	All      bool                    // hosts of the flake
	Pointers map[pointer.Name]string // besides the source's own, and which attribute each is to lead to
	Workers  int                     // that evaluate, side by side; 0: as many as the machine can do
}

// are says whether there are several hosts.
func (h *hosts) are() bool { return h.All || h.Pointers != nil }

// decodeHosts takes what says that a put is about several hosts.
func decodeHosts(o *object) hosts {
	h := hosts{All: o.flag("all", false), Workers: decodeWorkers(o)}
	attributes := textMap(o, "pointers")
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		parsed, err := pointer.ParseName(name)
		if err == nil {
			_, err = parseAttribute(attributes[name])
		}
		if err != nil {
			o.failWith("pointers."+name, err)
			continue
		}
		if h.Pointers == nil {
			h.Pointers = map[pointer.Name]string{}
		}
		h.Pointers[parsed] = attributes[name]
	}
	switch {
	case h.All && o.has("pointers"):
		o.fail("pointers", "all hosts have their pointers already: keep all, or pointers")
	case h.All && !o.has("flake"):
		o.fail("all", "all hosts of which flake? want flake, too")
	case h.All && (o.has("attribute") || strings.Contains(o.text("flake"), "#")):
		o.fail("all", "one host is named, too: keep all, or that one")
	case o.has("pointers") && !o.has("flake") && !o.has("file"):
		o.fail("pointers", "attributes of which expression? want flake or file, too")
	case o.has("eval_workers") && !h.are():
		o.fail("eval_workers", "there is one host to evaluate: want all or pointers, too")
	}
	return h
}

// decodeWorkers takes how many hosts are evaluated side by side.
func decodeWorkers(o *object) int {
	text := o.textOrNumber("eval_workers")
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		o.fail("eval_workers", "want a number of evaluations side by side, got %q", text)
	}
	return n
}

// choose returns the names of those hosts of the fleet's flake, sorted, that
// patterns match. No host is evaluated for that.
func (f *fleet) choose(ctx context.Context, patterns []string) ([]string, error) {
	hosts := f.installable
	hosts.Attribute = "nixosConfigurations"
	names, err := f.local.Attributes(ctx, hosts)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, hint.With(errors.New("the flake has no hosts"), "want some in nixosConfigurations")
	}
	var chosen []string
	for _, pattern := range patterns {
		var matching []string
		for _, name := range names {
			match, err := path.Match(pattern, name)
			if err != nil {
				return nil, mistakes{hint.With(fmt.Errorf("the pattern %q: %w", pattern, err), "* stands for any letters, ? for one, [ab] for one of those")}
			}
			if match {
				matching = append(matching, name)
			}
		}
		if matching == nil {
			err := fmt.Errorf("the flake has no host %s", pattern)
			if near := nearest(pattern, names); near != "" {
				return nil, mistakes{hint.With(err, "did you mean %s?", near)}
			}
			return nil, mistakes{hint.With(err, "its hosts: %s", hint.Few(names))}
		}
		chosen = append(chosen, matching...)
	}
	slices.Sort(chosen)
	return slices.Compact(chosen), nil
}
