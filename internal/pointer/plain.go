package pointer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// maxPlain is far more than a store path and a newline, in bytes.
const maxPlain = 1 << 10

// A plainCopy is the object that holds the newest path and a newline.
type plainCopy struct {
	text   string
	exists bool
	etag   string
}

// readPlain reads the copy, if there is one.
func (p *Pointer) readPlain(ctx context.Context) (plainCopy, error) {
	data, info, err := blob.ReadAll(ctx, p.store, p.config.Name.plainKey(), maxPlain, blob.GetOptions{})
	var large *blob.TooLargeError
	switch {
	case errors.Is(err, blob.ErrNotExist):
		return plainCopy{}, nil
	case err != nil && !errors.As(err, &large):
		return plainCopy{}, err
	}
	return plainCopy{string(data), true, info.ETag}, nil
}

// A plainStep is what a write of the history means for the copy: from what it
// has said so far, to what it must say. It also holds the copy as it was when
// the history was read, if somebody has looked.
type plainStep struct {
	from, to string
	copy     *plainCopy
}

// settle brings the copy up to date and returns the history that it agrees
// with, which is the given one if that will do.
//
// The copy is read before the history, and replaced only if it is still what
// was read. So a writer that was slow, or is killed halfway, can't put an older
// path over a newer one; and since each writer looks at the history again after
// it has written the copy, the last one leaves them in agreement. (That look is
// needed also where there are no conditions, or no ETag to make one of.)
//
// A copy that is still where the step begins was not touched since the history
// was written; so the history need not be looked at before the copy is, too.
// That it is still there is the condition of the write, so it makes no difference
// whether it was read then or already with the history that was written over: if
// it has changed since, the write is refused, and it is read.
func (p *Pointer) settle(ctx context.Context, history *History, step plainStep) (*History, error) {
	if step.copy == nil {
		plain, err := p.readPlain(ctx)
		if err != nil {
			return nil, err
		}
		step.copy = &plain
	}
	plain := *step.copy
	if history != nil && plain.text == history.plain() {
		return history, nil
	}
	for tries := 0; ; step = (plainStep{}) {
		next := step.to
		if !plain.exists || plain.text != step.from || next == step.from {
			history, err := p.Read(ctx)
			if err != nil {
				return nil, err
			}
			if len(history.Generations) == 0 {
				return nil, hint.With(fmt.Errorf("the history of %s was deleted while it was written", p),
					"%s, once nothing deletes it any more", hint.Term("put again"))
			}
			if next = history.plain(); next == plain.text {
				return history, nil
			}
		}
		options := p.onlyIf(plain.exists, plain.etag)
		options.ContentType, options.CacheControl = "text/plain", "no-cache"
		info, failure := p.store.Put(ctx, p.config.Name.plainKey(), strings.NewReader(next), options)
		if failure == nil {
			plain = plainCopy{next, true, info.ETag}
			continue
		}
		before := plain
		var err error
		if plain, err = p.readPlain(ctx); err != nil {
			return nil, fmt.Errorf("%w; then, looking whether it was written: %w", failure, err)
		}
		if err := p.again(ctx, &tries, failure, plain != before); err != nil {
			return nil, err
		}
	}
}

// plain is what the copy of a history has to say.
func (h *History) plain() string {
	newest, _ := h.Newest()
	return newest.plain()
}

// plain is what the copy has to say where g is the newest.
func (g Generation) plain() string {
	return g.Path.String() + "\n"
}
