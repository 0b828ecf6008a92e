package blob

import (
	"context"
	"io"
)

// A body is the Object.Body of a source that doesn't break: it yields exactly
// remaining bytes, or fails.
type body struct {
	ctx       context.Context
	store     Store
	key       string
	source    io.ReadCloser
	remaining int64
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, failed("reading", b.key, b.store, err)
	}
	if b.remaining == 0 {
		return 0, io.EOF
	}
	n, err := b.source.Read(p[:min(int64(len(p)), b.remaining)])
	b.remaining -= int64(n)
	if err == io.EOF && b.remaining > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		err = failed("reading", b.key, b.store, err)
	}
	return n, err
}

func (b *body) Close() error { return b.source.Close() }
