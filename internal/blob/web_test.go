package blob_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/blobtest"
)

// files is a web server's files: by path, as it comes in requests.
type files map[string][]byte

func (f files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, ok := f[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%08x"`, crc32.ChecksumIEEE(data)))
	http.ServeContent(w, r, "", time.Now(), bytes.NewReader(data))
}

func webStore(t *testing.T, server *httptest.Server, path string, config blob.Config) blob.Store {
	t.Helper()
	u, err := url.Parse(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	return openStore(t, u, config)
}

func TestWeb(t *testing.T) {
	blobtest.RunReadOnly(t, func(t *testing.T, objects map[string][]byte) blob.Store {
		f := make(files)
		for key, data := range objects {
			f["/a prefix/"+key] = data
		}
		server := httptest.NewServer(f)
		t.Cleanup(server.Close)
		return webStore(t, server, "/a%20prefix/?priority=10", blob.Config{})
	})
}

func TestWebIsReadOnly(t *testing.T) {
	store := webStore(t, httptest.NewServer(files{}), "", blob.Config{})
	_, err := store.Put(t.Context(), "object", strings.NewReader("x"), blob.PutOptions{})
	if !errors.Is(err, blob.ErrReadOnly) {
		t.Errorf("Put: %v", err)
	}
	if err := store.Delete(t.Context(), "object"); !errors.Is(err, blob.ErrReadOnly) {
		t.Errorf("Delete: %v", err)
	}
	for _, err := range store.List(t.Context(), "") {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("List: %v", err)
		}
	}
	if got := store.Capabilities(); got != (blob.Capabilities{}) {
		t.Errorf("Capabilities: %+v", got)
	}
}

// TestWebWithoutRanges reads from a server that knows neither ranges nor
// conditions nor lengths.
func TestWebWithoutRanges(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		io.WriteString(w, "0123456789")
	}))
	defer server.Close()
	store := webStore(t, server, "", blob.Config{})
	object, err := store.Get(t.Context(), "object", blob.GetOptions{Offset: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer object.Body.Close()
	got, err := io.ReadAll(object.Body)
	if string(got) != "456789" || err != nil || object.Size != -1 {
		t.Errorf("got %q, size %d, error %v", got, object.Size, err)
	}
}
