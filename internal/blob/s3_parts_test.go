package blob_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
)

// TestS3PartsInFlight uploads one object to a server that answers no part
// before nothing more comes: several parts are on their way, and no more of the
// body has been read than these and the next one, whatever its length.
func TestS3PartsInFlight(t *testing.T) {
	const (
		part, size = 8 << 20, 30 * 8 << 20
		parallel   = 1 + 4 // the upload's own, and the store's extra ones
	)
	var (
		read, inFlight, answered atomic.Int64
		arrived                  = make(chan struct{}, size/part)
		release                  = make(chan struct{})
	)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		switch {
		case query.Has("uploads"):
			io.WriteString(w, "<InitiateMultipartUploadResult><UploadId>upload</UploadId></InitiateMultipartUploadResult>")
		case query.Has("partNumber"):
			io.Copy(io.Discard, r.Body)
			if n := inFlight.Add(1); n > parallel {
				t.Errorf("%d parts are in flight", n)
			}
			if n, limit := read.Load(), (answered.Load()+parallel+1)*part+64<<10; n > limit {
				t.Errorf("%d bytes of the body have been read, and %d parts answered", n, answered.Load())
			}
			arrived <- struct{}{}
			<-release
			inFlight.Add(-1)
			answered.Add(1)
			w.Header().Set("ETag", fmt.Sprintf(`"%s"`, query.Get("partNumber")))
		default:
			body, _ := io.ReadAll(r.Body)
			if n := bytes.Count(body, []byte("<PartNumber>")); n != size/part {
				t.Errorf("%d parts were put together", n)
			}
			io.WriteString(w, "<CompleteMultipartUploadResult><ETag>&#34;etag-30&#34;</ETag></CompleteMultipartUploadResult>")
		}
	}))
	defer server.Close()
	store := openStore(t, s3test.CacheAt(server.URL, "bucket"), blob.Config{AccessKeyID: "key", SecretAccessKey: "secret"})
	body := io.LimitReader(counted{&read}, size)
	done := make(chan error)
	go func() {
		info, err := store.Put(t.Context(), "object", body, blob.PutOptions{})
		if err == nil && (info.Size != size || info.ETag != `"etag-30"`) {
			err = fmt.Errorf("got %+v", info)
		}
		done <- err
	}()
	for range parallel {
		<-arrived
	}
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// counted yields bytes without end and counts them.
type counted struct{ bytes *atomic.Int64 }

func (c counted) Read(p []byte) (int, error) {
	c.bytes.Add(int64(len(p)))
	return len(p), nil
}
