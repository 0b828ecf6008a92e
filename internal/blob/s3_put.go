package blob

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/ctxio"
)

// An object is sent in one request if it fits into one part, and else in
// parts: S3 allows 10,000 of them, of 5 MiB to 5 GiB, and wants to know how
// many bytes come before they come, so a part is held in memory while it is
// sent. Some stores (R2) want all parts but the last to be of one size, which
// they are up to 40 GiB; beyond that they grow, to reach 5 TiB.
const (
	partSize     = 8 << 20
	largestPart  = 4 << 30
	uniformParts = 5000
	growingParts = 500 // parts after which the size doubles, from then on
	extraParts   = 4   // of all uploads, in flight beside the one that each has
)

// sizeOfPart is the size of part n, of which the first is 1.
func sizeOfPart(n int32) int64 {
	size := int64(partSize)
	for ; n > uniformParts && size < largestPart; n -= growingParts {
		size *= 2
	}
	return size
}

// writerMetadata names the metadata in which each Put leaves a word of its
// own, by which it recognises what it wrote when the answer was lost.
const writerMetadata = "nixos-closure-writer"

// Put implements [Store].
func (s *S3) Put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	info, err := s.put(ctx, key, body, opts)
	if err != nil {
		return Info{}, failed("writing", key, s, err)
	}
	return info, nil
}

func (s *S3) put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	if err := check(ctx, key); err != nil {
		return Info{}, err
	}
	if opts.IfAbsent || opts.IfMatch != "" {
		if err := s.requireConditions(ctx); err != nil {
			return Info{}, err
		}
	}
	return s.write(ctx, key, body, opts)
}

// write is Put for those who know that the store honours their conditions, or
// want to know.
func (s *S3) write(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	write := &s3Write{store: s, key: key, opts: opts, id: rand.Text()}
	if inMemory, ok := body.(*bytes.Reader); ok && int64(inMemory.Len()) <= sizeOfPart(1) {
		return write.whole(ctx, *inMemory) // most bytes come so, and need not be copied
	}
	source := bufio.NewReader(ctxio.NewReader(ctx, body))
	first, last, err := readPart(source, make([]byte, 0, 64<<10), sizeOfPart(1)) // most objects are small
	if err != nil {
		return Info{}, err
	}
	if last {
		return write.whole(ctx, *bytes.NewReader(first))
	}
	return write.inParts(ctx, first, source)
}

// readPart reads up to size bytes into buffer, or a larger one, and says whether
// they are the last.
func readPart(source *bufio.Reader, buffer []byte, size int64) (data []byte, last bool, err error) {
	data = buffer[:0]
	for int64(len(data)) < size {
		if len(data) == cap(data) {
			data = append(make([]byte, 0, min(size, int64(4*cap(data)))), data...)
		}
		n, err := source.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			return data, true, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	if _, err = source.Peek(1); err == io.EOF {
		return data, true, nil
	}
	return data, false, err
}

// An s3Write is one Put.
type s3Write struct {
	store *S3
	key   string
	opts  PutOptions
	id    string // what writerMetadata says
}

// whole sends the object in one request. Each attempt reads from a copy of data.
func (w *s3Write) whole(ctx context.Context, data bytes.Reader) (Info, error) {
	size, sum := int64(data.Len()), w.checksum(data)
	etag, err := w.commit(ctx, func() (string, error) {
		body := data
		output, err := w.store.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket:        &w.store.location.bucket,
			Key:           w.store.objectKey(w.key),
			Body:          &body,
			ContentLength: &size,
			ChecksumCRC32: sum,
			ContentType:   optional(w.opts.ContentType),
			CacheControl:  optional(w.opts.CacheControl),
			StorageClass:  types.StorageClass(w.store.location.storageClass),
			Metadata:      map[string]string{writerMetadata: w.id},
			IfMatch:       optional(w.opts.IfMatch),
			IfNoneMatch:   w.ifNoneMatch(),
		})
		if err != nil {
			return "", w.store.explain(err, "s3:PutObject", w.key)
		}
		return aws.ToString(output.ETag), nil
	})
	return Info{Key: w.key, Size: size, ETag: etag}, err
}

// inParts sends an object of which first is the beginning and rest follows.
func (w *s3Write) inParts(ctx context.Context, first []byte, rest *bufio.Reader) (Info, error) {
	upload, err := w.begin(ctx)
	if err != nil {
		return Info{}, err
	}
	parts, size, err := w.upload(ctx, upload, first, rest)
	var etag string
	if err == nil {
		etag, err = w.complete(ctx, upload, parts)
	}
	if err != nil {
		w.abort(ctx, upload)
		return Info{}, err
	}
	return Info{Key: w.key, Size: size, ETag: etag}, nil
}

func (w *s3Write) begin(ctx context.Context) (upload *string, err error) {
	input := &s3.CreateMultipartUploadInput{
		Bucket:       &w.store.location.bucket,
		Key:          w.store.objectKey(w.key),
		ContentType:  optional(w.opts.ContentType),
		CacheControl: optional(w.opts.CacheControl),
		StorageClass: types.StorageClass(w.store.location.storageClass),
		Metadata:     map[string]string{writerMetadata: w.id},
	}
	if !w.store.config.SkipS3Checksums {
		input.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32
	}
	err = w.store.config.Patience.Retry.Do(ctx, func() error {
		output, err := w.store.client.CreateMultipartUpload(ctx, input)
		if err != nil {
			return w.store.explain(err, "s3:PutObject", w.key)
		}
		upload = output.UploadId
		return nil
	})
	return upload, err
}

// upload sends first and rest in parts: each while the next one is being read,
// and more at once as long as the store has slots for them.
func (w *s3Write) upload(ctx context.Context, upload *string, first []byte, rest *bufio.Reader) (parts []types.CompletedPart, size int64, err error) {
	var mutex sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	send := func(number int32, data []byte) error {
		part, err := w.part(ctx, upload, number, data)
		mutex.Lock()
		defer mutex.Unlock()
		parts = append(parts, part)
		return err
	}
	group.Go(func() error {
		own := make(chan struct{}, 1)
		data, last := first, false
		for number := int32(1); ; number++ {
			slot := own
			select {
			case own <- struct{}{}:
			case w.store.slots <- struct{}{}:
				slot = w.store.slots
			case <-ctx.Done():
				return ctx.Err()
			}
			part := data
			group.Go(func() error {
				defer func() { <-slot }()
				return send(number, part)
			})
			size += int64(len(part))
			if last {
				return nil
			}
			var err error
			next := sizeOfPart(number + 1)
			if data, last, err = readPart(rest, make([]byte, 0, next), next); err != nil {
				return err
			}
		}
	})
	err = group.Wait()
	slices.SortFunc(parts, func(a, b types.CompletedPart) int { return cmp.Compare(*a.PartNumber, *b.PartNumber) })
	return parts, size, err
}

func (w *s3Write) part(ctx context.Context, upload *string, number int32, data []byte) (types.CompletedPart, error) {
	part := types.CompletedPart{PartNumber: &number, ChecksumCRC32: w.checksum(*bytes.NewReader(data))}
	err := w.store.config.Patience.Retry.Do(ctx, func() error {
		output, err := w.store.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket:        &w.store.location.bucket,
			Key:           w.store.objectKey(w.key),
			UploadId:      upload,
			PartNumber:    &number,
			Body:          bytes.NewReader(data),
			ContentLength: aws.Int64(int64(len(data))),
			ChecksumCRC32: part.ChecksumCRC32,
		})
		if err != nil {
			return w.store.explain(err, "s3:PutObject", w.key)
		}
		part.ETag = output.ETag
		return nil
	})
	return part, err
}

func (w *s3Write) complete(ctx context.Context, upload *string, parts []types.CompletedPart) (etag string, err error) {
	return w.commit(ctx, func() (string, error) {
		output, err := w.store.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket:          &w.store.location.bucket,
			Key:             w.store.objectKey(w.key),
			UploadId:        upload,
			MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
			IfMatch:         optional(w.opts.IfMatch),
			IfNoneMatch:     w.ifNoneMatch(),
		})
		if err != nil {
			err = w.store.explain(err, "s3:PutObject", w.key)
			if codeOf(err) == conflictCode {
				err = retry.Permanent(err) // the parts are gone
			}
			return "", err
		}
		return aws.ToString(output.ETag), nil
	})
}

// abort gives the parts up, so that nobody pays for them; a bucket's lifecycle
// rule does it for those who are killed before they get here.
func (w *s3Write) abort(ctx context.Context, upload *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	w.store.config.Patience.Retry.Do(ctx, func() error {
		_, err := w.store.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
			Bucket:   &w.store.location.bucket,
			Key:      w.store.objectKey(w.key),
			UploadId: upload,
		})
		return w.store.explain(err, "s3:AbortMultipartUpload", w.key)
	})
}

// abortTime is what those who have been told to stop may still spend.
const abortTime = 10 * time.Second

// commit makes the request that makes the object visible. When an attempt's
// answer is lost, the next one may be refused because of what the first has
// written; so a refusal is believed only after a look at who wrote the object.
func (w *s3Write) commit(ctx context.Context, attempt func() (etag string, err error)) (etag string, err error) {
	var lost bool // an attempt that may have succeeded
	err = w.store.config.Patience.Retry.Do(ctx, func() error {
		etag, err = attempt()
		if err == nil {
			return nil
		}
		if retry.Transient(err) {
			lost = lost || codeOf(err) != conflictCode
			return err
		}
		condition := (w.opts.IfAbsent || w.opts.IfMatch != "") && (errors.Is(err, ErrPrecondition) || errors.Is(err, ErrNotExist))
		if !condition && codeOf(err) != conflictCode && codeOf(err) != "NoSuchUpload" {
			return err
		}
		there, writer, headErr := w.store.head(ctx, w.key)
		switch {
		case headErr == nil && writer == w.id:
			etag = there.ETag
			return nil
		case retry.Transient(headErr):
			return headErr
		case headErr == nil && w.opts.IfAbsent, condition && !lost:
			return fmt.Errorf("%w (%v)", ErrPrecondition, err)
		}
		return fmt.Errorf("the object may have been written and replaced by now: %v", err)
	})
	return etag, err
}

// conflictCode is S3's word, with status 409, for a conditional write that met
// another one. It asks for another attempt, from the object's first byte.
const conflictCode = "ConditionalRequestConflict"

func (w *s3Write) ifNoneMatch() *string {
	if w.opts.IfAbsent {
		return aws.String("*")
	}
	return nil
}

// checksum guards the data on its way, as the signature covers them only where
// there is no TLS, and S3 keeps it beside them. The SDK would send it after the
// data, in an encoding that fewer stores understand.
func (w *s3Write) checksum(data bytes.Reader) *string {
	if w.store.config.SkipS3Checksums {
		return nil
	}
	sum := crc32.NewIEEE()
	data.WriteTo(sum)
	return aws.String(base64.StdEncoding.EncodeToString(sum.Sum(nil)))
}
