package blob

import (
	"context"
	"fmt"
	"io"
)

// A body is the Object.Body of a source whose length is known: it yields
// exactly remaining bytes, or fails.
type body struct {
	ctx       context.Context
	source    io.ReadCloser
	remaining int64
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.remaining == 0 {
		return 0, io.EOF
	}
	n, err := b.source.Read(p[:min(int64(len(p)), b.remaining)])
	b.remaining -= int64(n)
	if err == io.EOF && b.remaining > 0 {
		return n, fmt.Errorf("%w: the last %d bytes are missing", io.ErrUnexpectedEOF, b.remaining)
	}
	return n, err
}

func (b *body) Close() error { return b.source.Close() }

// A contextReader reads what is to be stored, until ctx is done.
type contextReader struct {
	ctx    context.Context
	source io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.source.Read(p)
}
