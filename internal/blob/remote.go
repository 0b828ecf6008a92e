package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/compression"
)

// A remote is a store behind a connection that may break. Its methods make one
// request and explain its failure, in a way that [retry.Transient] still sees.
type remote interface {
	Store
	// open opens the object from offset on; if ifMatch isn't empty, only the
	// version with that ETag.
	// The body is as it is stored, in the returned Content-Encoding.
	open(ctx context.Context, key string, offset int64, ifMatch, ifNoneMatch string) (info Info, encoding string, body io.ReadCloser, err error)
	stat(ctx context.Context, key string) (Info, error)
}

// getRemote is the Get of a remote store.
func getRemote(ctx context.Context, r remote, patience Patience, key string, opts GetOptions) (*Object, error) {
	if err := check(ctx, key); err != nil {
		return nil, err
	}
	if err := checkOffset(opts.Offset, opts.Offset); err != nil {
		return nil, err
	}
	body := &resumingBody{ctx: ctx, store: r, key: key, patience: patience, offset: opts.Offset}
	var info Info
	var encoding string
	err := patience.Retry.Do(ctx, func() (err error) {
		info, encoding, body.source, err = r.open(ctx, key, opts.Offset, "", opts.IfNoneMatch)
		if opts.Offset > 0 && statusOf(err) == http.StatusRequestedRangeNotSatisfiable {
			// There is nothing from there on, so it is the end or beyond it.
			info, err = r.stat(ctx, key)
			body.source = http.NoBody
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if info.Size >= 0 {
		if err := checkOffset(opts.Offset, info.Size); err != nil {
			body.Close()
			return nil, err
		}
	}
	body.size = info.Size
	if info.ETag != "" && !strings.HasPrefix(info.ETag, "W/") {
		body.reopen = func(offset int64) (io.ReadCloser, error) {
			_, _, source, err := r.open(ctx, key, offset, info.ETag, "")
			if errors.Is(err, ErrPrecondition) || errors.Is(err, ErrNotExist) {
				err = errReplaced
			}
			return source, err
		}
	}
	if !compression.IsEncoded(encoding) {
		return &Object{info, body}, nil
	}
	if opts.Offset > 0 {
		body.Close()
		return nil, fmt.Errorf("it is stored with the Content-Encoding %s, and can't be read from its middle", encoding)
	}
	plain, err := compression.NewContentReader(encoding, body)
	if err != nil {
		body.Close()
		return nil, err
	}
	info.Size = -1
	return &Object{info, plain}, nil
}

// statRemote is the Stat of a remote store.
func statRemote(ctx context.Context, r remote, policy retry.Policy, key string) (info Info, err error) {
	if err := check(ctx, key); err != nil {
		return Info{}, err
	}
	err = policy.Do(ctx, func() error {
		info, err = r.stat(ctx, key)
		return err
	})
	return info, err
}

// rangeOf returns the size of the whole object and its rest from offset on, of
// an answer to a request for that rest. Servers may answer with all of it.
// length and size are -1 if unknown.
func rangeOf(source io.ReadCloser, offset, length int64, contentRange string) (size int64, rest io.ReadCloser, err error) {
	if contentRange == "" {
		if length >= 0 && offset > length {
			return length, source, nil
		}
		if n, err := io.CopyN(io.Discard, source, offset); err != nil {
			source.Close()
			if err == io.EOF {
				err = checkOffset(offset, n)
			}
			return 0, nil, err
		}
		return length, source, nil
	}
	var first, last int64
	if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &first, &last, &size); err != nil || first != offset || last != size-1 {
		source.Close()
		return 0, nil, fmt.Errorf("asked for the bytes from %d on, the server sends %q", offset, contentRange)
	}
	return size, source, nil
}

// A resumingBody is the Object.Body of a remote store. When the connection
// breaks or stalls, it goes on where it was, as long as the object is still
// the same one.
type resumingBody struct {
	ctx      context.Context
	store    Store
	key      string
	patience Patience

	source io.ReadCloser // nil: to be opened again
	offset int64         // of the object's next byte
	size   int64         // of the object; -1 if unknown
	breaks int
	err    error // that ended it

	gained int64         // bytes that came
	waited time.Duration // in the time that was waited for them

	// reopen opens the same version of the object at an offset. It is nil
	// where that can't be told from another version.
	reopen func(offset int64) (io.ReadCloser, error)
}

// maxBreaks bounds how often one body may break. Each time, its patience
// bounds how long we try to go on.
const maxBreaks = 100

// errReplaced ends a body that broke and whose object is no longer the same.
var errReplaced = errors.New("the object was replaced while it was being read")

func (b *resumingBody) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	begin := time.Now()
	err = b.patience.Retry.Do(b.ctx, func() error {
		n, err = b.read(p)
		return err
	})
	if err == nil {
		err = b.checkProgress(n, time.Since(begin))
	}
	if err != nil && err != io.EOF {
		err = failed("reading", b.key, b.store, err)
	}
	b.err = err
	return n, err
}

// checkProgress returns an error if what comes is too little to matter: a server that
// sends a byte now and then would otherwise hold its reader for ever. How long the
// reader takes between two bytes is not the server's fault.
func (b *resumingBody) checkProgress(n int, waited time.Duration) error {
	b.gained, b.waited = b.gained+int64(n), b.waited+waited
	switch {
	case b.gained >= b.patience.Least:
		b.gained, b.waited = 0, 0
	case b.waited > b.patience.Retry.Budget:
		return fmt.Errorf("the server sends next to nothing: %d bytes in %s", b.gained, b.waited.Round(time.Second))
	}
	return nil
}

func (b *resumingBody) read(p []byte) (int, error) {
	if b.source == nil {
		source, err := b.reopen(b.offset)
		if err != nil {
			return 0, err
		}
		b.source = source
	}
	n, err := b.source.Read(p)
	b.offset += int64(n)
	if n > 0 || err == nil {
		return n, nil // an error that comes with bytes comes again with the next Read
	}
	if err == io.EOF {
		if b.size < 0 || b.offset >= b.size {
			return 0, io.EOF
		}
		err = io.ErrUnexpectedEOF
	}
	if b.reopen == nil || b.breaks == maxBreaks {
		return 0, retry.Permanent(err)
	}
	b.breaks++
	b.source.Close()
	b.source = nil
	return 0, err
}

func (b *resumingBody) Close() error {
	if b.source == nil {
		return nil
	}
	return b.source.Close()
}
