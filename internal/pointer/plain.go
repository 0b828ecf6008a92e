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

// settle brings the copy up to date and returns the history that it agrees
// with, which is the given one if that will do.
//
// The copy is read before the history, and replaced only if it is still what
// was read. So a writer that was slow, or is killed halfway, can't put an older
// path over a newer one; and since each writer looks at the history again after
// it has written the copy, the last one leaves them in agreement. (That look is
// needed also where there are no conditions, or no ETag to make one of.)
func (p *Pointer) settle(ctx context.Context, history *History) (*History, error) {
	plain, err := p.readPlain(ctx)
	if err != nil {
		return nil, err
	}
	if history != nil && plain.text == history.plain() {
		return history, nil
	}
	for tries := 0; ; {
		history, err := p.Read(ctx)
		if err != nil {
			return nil, err
		}
		if len(history.Generations) == 0 {
			return nil, hint.With(fmt.Errorf("the history of %s was deleted while it was written", p),
				"put again, once nothing deletes it any more")
		}
		if plain.text == history.plain() {
			return history, nil
		}
		options := p.onlyIf(plain.exists, plain.etag)
		options.ContentType, options.CacheControl = "text/plain", "no-cache"
		info, failure := p.store.Put(ctx, p.config.Name.plainKey(), strings.NewReader(history.plain()), options)
		if failure == nil {
			plain = plainCopy{history.plain(), true, info.ETag}
			continue
		}
		before := plain
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
	return newest.Path.String() + "\n"
}
