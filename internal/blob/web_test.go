package blob_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/blobtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/faultproxy"
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
	return openStore(t, parse(t, server.URL+path), config)
}

func parse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
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

// TestWebCredentials looks at where credentials go, and where not.
func TestWebCredentials(t *testing.T) {
	var asked []string // where, and with which credentials
	record := func(r *http.Request) { asked = append(asked, r.URL.Path+" "+r.Header.Get("Authorization")) }
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		record(r)
		io.WriteString(w, "contents")
	}))
	defer elsewhere.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		record(r)
		switch r.URL.Path {
		case "/moved/object":
			http.Redirect(w, r, "/here", http.StatusFound)
		case "/away/object":
			http.Redirect(w, r, elsewhere.URL+"/there?signature=s1gnature", http.StatusFound)
		case "/lost/object":
			http.Redirect(w, r, "http://127.0.0.1:1/?signature=s1gnature", http.StatusFound)
		case "/circle/object":
			http.Redirect(w, r, r.URL.Path+"?signature=s1gnature", http.StatusFound)
		case "/forbidden/object":
			w.WriteHeader(http.StatusForbidden)
		default:
			io.WriteString(w, "contents")
		}
	}))
	defer server.Close()
	token := blob.Config{BearerToken: "s3cr3t"}
	for _, test := range []struct {
		path    string
		config  blob.Config
		want    []string
		meaning error
		advice  string // if it fails
	}{
		{"/here", blob.Config{}, []string{"/here/object "}, nil, ""},
		{"/here", token, []string{"/here/object Bearer s3cr3t"}, nil, ""},
		{"/here", blob.Config{Netrc: "machine 127.0.0.1 login user password pass"}, []string{"/here/object Basic dXNlcjpwYXNz"}, nil, ""},
		{"/here", blob.Config{Netrc: "machine 127.0.0.2 login user password pass"}, []string{"/here/object "}, nil, ""},
		{"/moved", token, []string{"/moved/object Bearer s3cr3t", "/here Bearer s3cr3t"}, nil, ""},
		{"/away", token, []string{"/away/object Bearer s3cr3t", "/there "}, nil, ""},
		{"/lost", token, []string{"/lost/object Bearer s3cr3t"}, nil, "nothing listens there"},
		{"/forbidden", token, []string{"/forbidden/object Bearer s3cr3t"}, blob.ErrPermission, "is not accepted there"},
		{"/forbidden", blob.Config{}, []string{"/forbidden/object "}, blob.ErrPermission, "set netrc or bearer_token"},
	} {
		asked = nil
		test.config.Patience = quick
		test.config.Patience.Retry.Budget = 0
		_, _, err := blob.ReadAll(t.Context(), webStore(t, server, test.path, test.config), "object", 100, blob.GetOptions{})
		if test.advice != "" {
			wantExplained(t, err, test.meaning, test.advice, "s3cr3t", "s1gnature")
		} else if err != nil {
			t.Errorf("%s: %v", test.path, err)
		}
		if diff := cmp.Diff(test.want, asked); diff != "" {
			t.Errorf("%s: asked for (-want +got)\n%s", test.path, diff)
		}
	}
	asked = nil
	_, err := webStore(t, server, "/circle", blob.Config{Patience: quick}).Get(t.Context(), "object", blob.GetOptions{})
	wantExplained(t, err, nil, "", "s1gnature")
	if len(asked) != 10 {
		t.Errorf("it was asked %d times, going round in a circle", len(asked))
	}

	_, err = blob.Open(t.Context(), parse(t, "https://user:p4ss@cache.example.org"), blob.Config{})
	wantExplained(t, err, nil, "put them into netrc", "p4ss")
}

// TestWebSurvivesFaults is TestS3SurvivesFaults for what a web server is asked.
func TestWebSurvivesFaults(t *testing.T) {
	server := httptest.NewServer(files{"/object": smallObject})
	defer server.Close()
	var all sync.WaitGroup
	for _, fault := range faultproxy.Faults {
		for _, operation := range []string{"GetObject", "HeadObject"} {
			proxy := faultproxy.New(t, server.URL)
			proxy.Play(fault, operation, 1)
			store := openStore(t, parse(t, proxy.URL), blob.Config{Patience: stalling(500 * time.Millisecond)})
			all.Go(func() {
				if info, err := store.Stat(t.Context(), "object"); err != nil || info.Size != int64(len(smallObject)) {
					t.Errorf("%s, where %s: %+v, error %v", operation, fault, info, err)
				}
				data, _, err := blob.ReadAll(t.Context(), store, "object", 1<<30, blob.GetOptions{})
				if err != nil || !bytes.Equal(smallObject, data) {
					t.Errorf("%s, where %s: read %d bytes, error %v", operation, fault, len(data), err)
				}
			})
		}
	}
	all.Wait()
}

// A NAR's URL is a reference, as harmonia and snix write it. What comes encoded
// without having been asked for is decoded.
func TestWebReferences(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.RequestURI)
		io.WriteString(w, "contents")
	}))
	defer server.Close()
	store := webStore(t, server, "/cache", blob.Config{})
	want := []string{"/cache/nar/x.nar?hash=abc", "/cache/nar/y%20z.nar", "/cache/nar/100%25", "/cache/nar/a%23b"}
	for _, key := range []string{"nar/x.nar?hash=abc", "nar/y%20z.nar", "nar/100%", "nar/a#b"} {
		if _, _, err := blob.ReadAll(t.Context(), store, key, 100, blob.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("asked for (-want +got)\n%s", diff)
	}
}

func TestWebContentEncoding(t *testing.T) {
	const text = "StorePath: /nix/store/…\n"
	encode := map[string]func(io.Writer) io.WriteCloser{
		"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"x-gzip":  func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"zstd":    func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z },
		"br":      func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) },
		"xz":      func(w io.Writer) io.WriteCloser { x, _ := xz.NewWriter(w); return x },
		"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		coding := strings.TrimPrefix(r.URL.Path, "/")
		w.Header().Set("Content-Encoding", coding)
		var out io.WriteCloser = struct {
			io.Writer
			io.Closer
		}{w, io.NopCloser(nil)}
		if coding == "gzip, aws-chunked" {
			coding = "gzip"
		}
		if e := encode[coding]; e != nil {
			out = e(w)
		}
		io.WriteString(out, text)
		out.Close()
	}))
	defer server.Close()
	store := webStore(t, server, "", blob.Config{})
	for _, coding := range []string{"gzip", "x-gzip", "zstd", "br", "xz", "deflate", "identity", "gzip, aws-chunked"} {
		data, info, err := blob.ReadAll(t.Context(), store, coding, 100, blob.GetOptions{})
		if err != nil || string(data) != text {
			t.Errorf("%s: got %q, %v", coding, data, err)
		}
		if coding != "identity" && info.Size != -1 {
			t.Errorf("%s: its size is said to be %d", coding, info.Size)
		}
	}
	if _, _, err := blob.ReadAll(t.Context(), store, "rot13", 100, blob.GetOptions{}); err == nil || !strings.Contains(err.Error(), "Content-Encoding is rot13") {
		t.Errorf("an unknown encoding: %v", err)
	}
	// What unpacks to more is not read beyond the limit.
	if _, _, err := blob.ReadAll(t.Context(), store, "gzip", 5, blob.GetOptions{}); !errors.As(err, new(*blob.TooLargeError)) {
		t.Errorf("beyond the limit: %v", err)
	}
}
