package command

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
	"github.com/nixos-closure/nixos-closure-resource/resource"
)

// A reference names a generation: web-1:12, web-1 for its newest, or 12 for one
// of the pointer that the source names.
type reference struct {
	pointer pointer.Name // "" is the source's
	number  uint64       // 0 is the newest
}

func parseReference(s string) (r reference, err error) {
	name, number, numbered := strings.Cut(s, ":")
	if _, err := strconv.ParseUint(s, 10, 64); err == nil {
		name, number, numbered = "", s, true
	}
	if name != "" || !numbered {
		if r.pointer, err = pointer.ParseName(name); err != nil {
			return r, misuse{err}
		}
	}
	if numbered {
		if r.number, err = strconv.ParseUint(number, 10, 64); err != nil || r.number == 0 {
			return r, misuse{hint.With(fmt.Errorf("%q is not a generation", s), "want POINTER:12, POINTER, or 12")}
		}
	}
	return r, nil
}

// find opens the source for a reference and returns the generation.
func (a *app) find(ctx context.Context, r reference) (*resource.Engine, pointer.Generation, error) {
	engine, err := a.open(ctx, r.pointer)
	if err != nil {
		return nil, pointer.Generation{}, err
	}
	g, err := engine.Generation(ctx, r.number)
	return engine, g, err
}

// findArg is find for the argument of that index, or the newest generation of
// the source's pointer if there is none.
func (a *app) findArg(ctx context.Context, args []string, index int) (*resource.Engine, pointer.Generation, error) {
	var r reference
	if index < len(args) {
		var err error
		if r, err = parseReference(args[index]); err != nil {
			return nil, pointer.Generation{}, err
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
		err = misuse{err}
	}
	return name, err
}
