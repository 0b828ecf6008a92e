package blob_test

import (
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/faultproxy"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

var absent = blob.PutOptions{IfAbsent: true}

// TestS3ThatIgnoresConditions is about servers on which two writers would win.
func TestS3ThatIgnoresConditions(t *testing.T) {
	fake := new(fakeS3)
	server := httptest.NewServer(fake)
	defer server.Close()
	config := blob.Config{AccessKeyID: "key", SecretAccessKey: "secret"}
	for range 2 { // the second one learns it from the cache
		store := openStore(t, s3test.CacheAt(server.URL, "bucket"), config)
		for range 2 {
			_, err := store.Put(t.Context(), "object", strings.NewReader("x"), absent)
			if !errors.Is(err, errors.ErrUnsupported) || len(hint.Of(err)) != 1 || !strings.Contains(hint.Of(err)[0], "conditional_writes: false") {
				t.Errorf("the error is %v, with the hints %q", err, hint.Of(err))
			}
		}
		wantNoObject(t, store, "object")
	}
	var writes int
	for _, r := range fake.asked() {
		if r.Method == "PUT" {
			writes++
		}
	}
	if writes != 3 { // something to be refused, the first one that isn't, the result
		t.Errorf("%d writes were made to find out", writes)
	}

	no := false
	config.ConditionalWrites = &no
	store := openStore(t, s3test.CacheAt(server.URL, "bucket"), config)
	if store.Capabilities().Conditional {
		t.Error("there are conditional writes where the user says that there is one writer")
	}
	if _, err := store.Put(t.Context(), "object", strings.NewReader("x"), absent); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("the error is %v", err)
	}
	if _, err := store.Put(t.Context(), "object", strings.NewReader("x"), blob.PutOptions{}); err != nil {
		t.Error(err)
	}
	if requests := fake.asked(); len(requests) != 1 {
		t.Errorf("%d requests were made for one Put without a condition", len(requests))
	}
}

func wantNoObject(t *testing.T, store blob.Store, key string) {
	t.Helper()
	if _, err := store.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotExist) {
		t.Errorf("%s is there: %v", key, err)
	}
}

// TestS3ProbesOnce counts what it costs to know that conditions are honoured.
func TestS3ProbesOnce(t *testing.T) {
	server := s3test.Versitygw(t)
	proxy := faultproxy.New(t, server.URL)
	bucket := server.Bucket(t)
	puts := func(endpoint string) int {
		store := openStore(t, s3test.CacheAt(endpoint, bucket), server.Config())
		for range 2 {
			if _, err := store.Put(t.Context(), "object", strings.NewReader("x"), absent); err != nil && !errors.Is(err, blob.ErrPrecondition) {
				t.Fatal(err)
			}
		}
		for info, err := range store.List(t.Context(), "pointers/") {
			t.Errorf("listed %v, error %v", info, err)
		}
		return len(slices.DeleteFunc(proxy.Operations(), func(o string) bool { return o != "PutObject" }))
	}
	if n := puts(proxy.URL); n != 6 {
		t.Errorf("the first process wrote %d times, want 4 to find out and 2", n)
	}
	if n := puts(proxy.URL); n != 2 {
		t.Errorf("the second process wrote %d times, want 2", n)
	}
	// Who reaches the bucket elsewhere may be looking at another server, with
	// a copy of the cache.
	other := faultproxy.New(t, proxy.URL)
	if n := puts(other.URL); n != 6 {
		t.Errorf("a process with another endpoint wrote %d times, want 6", n)
	}
}

// TestS3ProbersAtOnce lets many find out at the same time.
func TestS3ProbersAtOnce(t *testing.T) {
	server := s3test.Versitygw(t)
	bucket := server.Bucket(t)
	errs := make(chan error)
	const writers = 12
	for range writers {
		store := openStore(t, server.Cache(bucket), server.Config())
		go func() {
			_, err := store.Put(t.Context(), "object", strings.NewReader("x"), absent)
			errs <- err
		}()
	}
	var won int
	for range writers {
		if err := <-errs; err == nil {
			won++
		} else if !errors.Is(err, blob.ErrPrecondition) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d writers won", won)
	}
}
