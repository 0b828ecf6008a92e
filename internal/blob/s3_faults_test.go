package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/faultproxy"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
)

// quick is DefaultPatience on a day of seconds.
var quick = blob.Patience{
	Retry: retry.Policy{First: time.Millisecond, Longest: 50 * time.Millisecond, Budget: 20 * time.Second},
	Stall: 10 * time.Second,
}

// stalling returns quick for tests that play stalls. Where stall is short, a
// busy machine adds some of its own.
func stalling(stall time.Duration) blob.Patience {
	patience := quick
	patience.Stall = stall
	return patience
}

// A faulty store is one in a bucket of its own behind a proxy.
type faulty struct {
	bucket string
	proxy  *faultproxy.Proxy
	store  blob.Store
	direct blob.Store // the same, but for the proxy
}

func newFaulty(t *testing.T, server *s3test.Server, patience blob.Patience) *faulty {
	t.Helper()
	f := &faulty{bucket: server.Bucket(t), proxy: faultproxy.New(t, server.URL)}
	config := server.Config()
	f.direct = openStore(t, server.Cache(f.bucket), config)
	config.Patience = patience
	f.store = openStore(t, s3test.CacheAt(f.proxy.URL, f.bucket), config)
	// Let it find out now that the server has conditional writes.
	if _, err := f.store.Put(t.Context(), "first", strings.NewReader(""), blob.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	f.proxy.Operations()
	return f
}

func (f *faulty) want(ctx context.Context, key string, want []byte) error {
	got, _, err := blob.ReadAll(ctx, f.direct, key, 1<<30, blob.GetOptions{})
	if err == nil && !bytes.Equal(want, got) {
		err = fmt.Errorf("%s has other contents, %d bytes", key, len(got))
	}
	return err
}

var (
	smallObject = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)    // 1 MiB
	largeObject = bytes.Repeat([]byte("0123456789abcdef"), 9<<20/16) // two parts
)

// operations are what a store does, by the request of each that faults are
// played on. Each must succeed in spite of them.
var operations = map[string]func(ctx context.Context, f *faulty) error{
	"GetObject": func(ctx context.Context, f *faulty) error {
		if _, err := f.direct.Put(ctx, "object", bytes.NewReader(smallObject), blob.PutOptions{}); err != nil {
			return err
		}
		got, _, err := blob.ReadAll(ctx, f.store, "object", 1<<30, blob.GetOptions{})
		if err == nil && !bytes.Equal(smallObject, got) {
			err = fmt.Errorf("got %d other bytes", len(got))
		}
		return err
	},
	"HeadObject": func(ctx context.Context, f *faulty) error {
		_, err := f.store.Stat(ctx, "first")
		return err
	},
	"ListObjectsV2": func(ctx context.Context, f *faulty) error {
		var keys []string
		for info, err := range f.store.List(ctx, "") {
			if err != nil {
				return err
			}
			keys = append(keys, info.Key)
		}
		if !slices.Equal(keys, []string{"first"}) {
			return fmt.Errorf("listed %q", keys)
		}
		return nil
	},
	"DeleteObject": func(ctx context.Context, f *faulty) error {
		if err := f.store.Delete(ctx, "first"); err != nil {
			return err
		}
		if _, err := f.direct.Stat(ctx, "first"); !errors.Is(err, blob.ErrNotExist) {
			return fmt.Errorf("it is still there: %v", err)
		}
		return nil
	},
	"PutObject":               func(ctx context.Context, f *faulty) error { return create(ctx, f, smallObject) },
	"CreateMultipartUpload":   func(ctx context.Context, f *faulty) error { return create(ctx, f, largeObject) },
	"UploadPart":              func(ctx context.Context, f *faulty) error { return create(ctx, f, largeObject) },
	"CompleteMultipartUpload": func(ctx context.Context, f *faulty) error { return create(ctx, f, largeObject) },
	"AbortMultipartUpload": func(ctx context.Context, f *faulty) error {
		broken := errors.New("the disk is gone")
		_, err := f.store.Put(ctx, "object", io.MultiReader(bytes.NewReader(largeObject), iotest.ErrReader(broken)), blob.PutOptions{})
		if !errors.Is(err, broken) {
			return fmt.Errorf("the error is %v", err)
		}
		return nil
	},
}

// create wins a conditional write, whatever was lost on the way. (That the
// other condition is treated alike is shown by TestS3LostAnswers.)
func create(ctx context.Context, f *faulty, data []byte) error {
	if _, err := f.store.Put(ctx, "object", bytes.NewReader(data), blob.PutOptions{IfAbsent: true}); err != nil {
		return err
	}
	return f.want(ctx, "object", data)
}

func TestS3SurvivesFaults(t *testing.T) {
	server := s3test.Versitygw(t)
	var all sync.WaitGroup
	for operation, run := range operations {
		for _, fault := range faultproxy.Faults {
			f := newFaulty(t, server, stalling(3*time.Second))
			f.proxy.Play(fault, operation, 1)
			all.Go(func() {
				begin := time.Now()
				if err := run(t.Context(), f); err != nil {
					t.Errorf("%s, where %s: after %v: %v", operation, fault, time.Since(begin), err)
				}
				if n := len(slices.DeleteFunc(f.proxy.Operations(), func(o string) bool { return o != operation })); n < 2 {
					t.Errorf("%s, where %s: it was asked for only %d times", operation, fault, n)
				}
				if operation == "CreateMultipartUpload" {
					return // whose lost answer only a lifecycle rule can deal with
				}
				if n := unfinishedUploads(t, server, f.bucket); n != 0 {
					t.Errorf("%s, where %s: %d uploads are left", operation, fault, n)
				}
			})
		}
	}
	all.Wait()
}

func unfinishedUploads(t *testing.T, server *s3test.Server, bucket string) int {
	uploads, err := server.Client().ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &bucket})
	if err != nil {
		t.Error(err)
		return -1
	}
	return len(uploads.Uploads)
}

// TestS3GivesUp plays each fault without end: the error comes in bounded time,
// and is not one that says something about the object.
func TestS3GivesUp(t *testing.T) {
	server := s3test.Versitygw(t)
	patience := stalling(500 * time.Millisecond)
	patience.Retry.Budget = 300 * time.Millisecond
	var all sync.WaitGroup
	for operation, run := range operations {
		if operation == "AbortMultipartUpload" {
			continue // whose failure nobody sees
		}
		for _, fault := range faultproxy.Faults {
			f := newFaulty(t, server, patience)
			f.proxy.Play(fault, operation, 1<<30)
			all.Go(func() {
				begin := time.Now()
				err := run(t.Context(), f)
				if took := time.Since(begin); took > 10*time.Second {
					t.Errorf("%s, where %s: error %v after %v", operation, fault, err, took)
				}
				if err == nil && fault != faultproxy.StalledAnswer && fault != faultproxy.TruncatedAnswer {
					t.Errorf("%s, where %s: no error", operation, fault) // half of a refusal can be enough to understand
				}
				for _, meaning := range []error{blob.ErrNotExist, blob.ErrPrecondition, blob.ErrPermission, context.Canceled} {
					if errors.Is(err, meaning) {
						t.Errorf("%s, where %s: the error means %q: %v", operation, fault, meaning, err)
					}
				}
			})
		}
	}
	all.Wait()
}

// TestS3BodyOfReplacedObject replaces an object when its body breaks.
func TestS3BodyOfReplacedObject(t *testing.T) {
	f := newFaulty(t, s3test.Versitygw(t), quick)
	if _, err := f.direct.Put(t.Context(), "object", bytes.NewReader(smallObject), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	f.proxy.Played = func(faultproxy.Fault, string) {
		if _, err := f.direct.Put(t.Context(), "object", bytes.NewReader(largeObject), blob.PutOptions{}); err != nil {
			t.Error(err)
		}
	}
	f.proxy.Play(faultproxy.TruncatedAnswer, "GetObject", 1)
	object, err := f.store.Get(t.Context(), "object", blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer object.Body.Close()
	got, err := io.ReadAll(object.Body)
	if err == nil || !strings.Contains(err.Error(), "replaced") || len(got) >= len(smallObject) {
		t.Errorf("read %d bytes, error %v", len(got), err)
	}
}

// TestS3LostAnswers has somebody else write before we find out what became of
// our own write.
func TestS3LostAnswers(t *testing.T) {
	server := s3test.Versitygw(t)
	for _, test := range []struct {
		name  string
		fault faultproxy.Fault
		opts  func(etag string) blob.PutOptions
		want  bool // that an error is ErrPrecondition
	}{
		{"created, then replaced", faultproxy.LostAnswer, func(string) blob.PutOptions { return blob.PutOptions{IfAbsent: true} }, true},
		{"others created it", faultproxy.Reset, func(string) blob.PutOptions { return blob.PutOptions{IfAbsent: true} }, true},
		{"replaced twice", faultproxy.LostAnswer, func(etag string) blob.PutOptions { return blob.PutOptions{IfMatch: etag} }, false},
		{"others replaced it", faultproxy.Reset, func(etag string) blob.PutOptions { return blob.PutOptions{IfMatch: etag} }, false},
	} {
		for operation, data := range map[string][]byte{"PutObject": smallObject, "CompleteMultipartUpload": largeObject} {
			f := newFaulty(t, server, quick)
			opts := test.opts("")
			if !opts.IfAbsent {
				info, err := f.direct.Put(t.Context(), "object", strings.NewReader("before"), blob.PutOptions{})
				if err != nil {
					t.Fatal(err)
				}
				opts = test.opts(info.ETag)
			}
			f.proxy.Played = func(faultproxy.Fault, string) {
				if _, err := f.direct.Put(t.Context(), "object", strings.NewReader("theirs"), blob.PutOptions{}); err != nil {
					t.Error(err)
				}
			}
			f.proxy.Play(test.fault, operation, 1)
			_, err := f.store.Put(t.Context(), "object", bytes.NewReader(data), opts)
			if err == nil && test.fault == faultproxy.LostAnswer {
				continue // S3 may remember that the upload was completed; and so it was
			}
			if err == nil || errors.Is(err, blob.ErrPrecondition) != test.want {
				t.Errorf("%s by %s: the error is %v", test.name, operation, err)
			}
			if err := f.want(t.Context(), "object", []byte("theirs")); err != nil {
				t.Errorf("%s by %s: %v", test.name, operation, err)
			}
		}
	}
}

// TestS3AtRandom lets writers append to one object by compare-and-swap while
// anything may happen to any request: each word is there in the end, once.
func TestS3AtRandom(t *testing.T) {
	const writers, words = 4, 8
	f := newFaulty(t, s3test.Versitygw(t), stalling(500*time.Millisecond))
	if _, err := f.direct.Put(t.Context(), "list", strings.NewReader(""), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	f.proxy.PlayAtRandom(1, 0.1)
	group, ctx := errgroup.WithContext(t.Context())
	var want []string
	for writer := range writers {
		for word := range words {
			want = append(want, fmt.Sprintf("writer%d-word%d", writer, word))
		}
		group.Go(func() error {
			for word := range words {
				if err := appendWord(ctx, f.store, fmt.Sprintf("writer%d-word%d", writer, word)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	data, _, err := blob.ReadAll(t.Context(), f.direct, "list", 1<<20, blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(data))
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// appendWord does what the contract of Put tells those who write conditionally.
func appendWord(ctx context.Context, store blob.Store, word string) error {
	for {
		data, info, err := blob.ReadAll(ctx, store, "list", 1<<20, blob.GetOptions{})
		if err != nil {
			return err
		}
		if slices.Contains(strings.Fields(string(data)), word) {
			return nil // the write whose outcome we didn't learn
		}
		list := string(data) + word + "\n"
		_, err = store.Put(ctx, "list", strings.NewReader(list), blob.PutOptions{IfMatch: info.ETag})
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}
