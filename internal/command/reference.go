package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/internal/site"
)

// A reference names a generation: web-1:12, web-1 for its newest, or 12 for one
// of the pointer that the settings name.
type reference struct {
	pointer pointer.Name // "" is that of the settings
	number  uint64       // 0 is the newest
}

func parseReference(s string) (r reference, err error) {
	name, number, numbered := strings.Cut(s, ":")
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		name, number, numbered = "", s, true
	}
	if name != "" || !numbered {
		if r.pointer, err = pointer.ParseName(name); err != nil {
			return r, hint.Usage(err)
		}
	}
	if numbered {
		if r.number, err = strconv.ParseUint(number, 10, 64); err != nil || r.number == 0 {
			return r, hint.Usage(hint.With(fmt.Errorf("%q is not a generation", s), "want POINTER:12, POINTER, or 12"))
		}
	}
	return r, nil
}

// A found generation, and where it is.
type found struct {
	site    *site.Site
	pointer *site.Pointer
	history *pointer.History
	pointer.Generation
}

// find opens the site for a reference and returns the generation.
func (a *app) find(ctx context.Context, r reference) (found, error) {
	s, p, err := a.open(ctx, r.pointer)
	if err != nil {
		return found{}, err
	}
	history, err := a.history(ctx, p)
	if err != nil {
		return found{}, err
	}
	g, _ := history.Newest()
	if r.number != 0 {
		g, err = p.FindIn(ctx, history, r.number)
	}
	return found{s, p, history, g}, err
}

// history reads a pointer's history, which has a generation at least, and warns of
// what is odd about it.
func (a *app) history(ctx context.Context, p *site.Pointer) (*pointer.History, error) {
	history, err := p.Read(ctx)
	if err != nil {
		return nil, err
	}
	if _, ok := history.Newest(); !ok {
		_, err := p.FindIn(ctx, history, 1) // which has the words for it
		return nil, err
	}
	p.Warn(a.console, history)
	return history, nil
}

// findArg is find for the argument of that index, or the newest generation of
// the settings' pointer if there is none.
func (a *app) findArg(ctx context.Context, args []string, index int) (found, error) {
	var r reference
	if index < len(args) {
		var err error
		if r, err = parseReference(args[index]); err != nil {
			return found{}, err
		}
	}
	return a.find(ctx, r)
}

// pointerArg is the pointer that the only argument names, if there is one.
func pointerArg(args []string) (pointer.Name, error) {
	if len(args) == 0 {
		return "", nil
	}
	name, err := pointer.ParseName(args[0])
	if err != nil {
		err = hint.Usage(err)
	}
	return name, err
}
