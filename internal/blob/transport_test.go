package blob_test

import (
	"bytes"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/version"
)

// TestS3Requests looks at what goes over the wire, beyond what S3 demands.
func TestS3Requests(t *testing.T) {
	for _, test := range []struct {
		name   string
		config blob.Config
		want   map[string]string // of a request's header
	}{
		{"with checksums", blob.Config{}, map[string]string{"X-Amz-Checksum-Crc32": "tPoRdw=="}},
		{"without", blob.Config{SkipS3Checksums: true}, map[string]string{"X-Amz-Checksum-Crc32": ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake := new(fakeS3)
			server := httptest.NewTLSServer(fake)
			defer server.Close()
			test.config.AccessKeyID, test.config.SecretAccessKey = "key", "secret"
			test.config.CACerts = []string{certificateOf(server)}
			u := withParameter(s3test.CacheAt(server.URL, "bucket"), "storage-class", "STANDARD_IA")
			store := openStore(t, u, test.config)
			opts := blob.PutOptions{ContentType: "text/x-nix-narinfo", CacheControl: "no-cache"}
			if _, err := store.Put(t.Context(), "object", strings.NewReader("contents"), opts); err != nil {
				t.Fatal(err)
			}
			header := fake.asked()[0].Header
			for key, value := range map[string]string{
				"User-Agent":          "nixos-closure/" + version.Number,
				"Content-Type":        "text/x-nix-narinfo",
				"Cache-Control":       "no-cache",
				"X-Amz-Storage-Class": "STANDARD_IA",
				"Content-Encoding":    "", // such as aws-chunked
				"X-Amz-Trailer":       "",
			} {
				test.want[key] = value
			}
			got := make(map[string]string)
			for key := range test.want {
				got[key] = header.Get(key)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func certificateOf(server *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

func TestCertificates(t *testing.T) {
	server := httptest.NewUnstartedServer(files{"/bucket/object": []byte("contents"), "/object": []byte("contents")})
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	elsewhere := strings.Replace(server.URL, "127.0.0.1", "localhost", 1) // which the certificate isn't for
	for _, test := range []struct {
		name, url string
		config    blob.Config
		advice    string // or none if all is well
	}{
		{"unknown authority", server.URL, blob.Config{}, "ca_certs"},
		{"given authority", server.URL, blob.Config{CACerts: []string{certificateOf(server)}}, ""},
		{"another name", elsewhere, blob.Config{CACerts: []string{certificateOf(server)}}, "by a name that its certificate is for"},
		{"unverified", elsewhere, blob.Config{SkipSSLVerification: true}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, store := range []blob.Store{
				openStore(t, s3test.CacheAt(test.url, "bucket"), test.config),
				openStore(t, parse(t, test.url), test.config),
			} {
				begin := time.Now()
				data, _, err := blob.ReadAll(t.Context(), store, "object", 100, blob.GetOptions{})
				if test.advice != "" {
					wantExplained(t, err, nil, test.advice)
				} else if err != nil || string(data) != "contents" {
					t.Errorf("read %q, error %v", data, err)
				}
				if took := time.Since(begin); took > 10*time.Second {
					t.Errorf("it took %v", took)
				}
			}
		})
	}
	_, err := blob.Open(t.Context(), parse(t, server.URL), blob.Config{CACerts: []string{certificateOf(server), "not one"}})
	wantExplained(t, err, nil, "BEGIN CERTIFICATE")
}

// TestProxy reads by a proxy, in another process, as the proxy is found in the
// environment and never used for this machine.
func TestProxy(t *testing.T) {
	for _, test := range []struct {
		name, cache string
		status      int
		method, uri string // that the proxy is asked for
		want        string // in the output
	}{
		{"works", "http://cache.example.org/prefix", http.StatusOK, "GET", "http://cache.example.org/prefix/object", "contents"},
		{"wants other credentials", "http://cache.example.org/prefix", http.StatusProxyAuthRequired, "GET", "http://cache.example.org/prefix/object", "407"},
		{"wants other credentials for TLS", "https://cache.example.org/prefix", http.StatusProxyAuthRequired, "CONNECT", "cache.example.org:443", "the proxy answers 407"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var asked []*http.Request
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r)
				w.WriteHeader(test.status)
				io.WriteString(w, "contents")
			}))
			defer proxy.Close()
			cmd := process(t, "read", test.cache, "object")
			address := strings.Replace(proxy.URL, "://", "://user:p4ssw0rd@", 1)
			cmd.Env = append(cmd.Env, "http_proxy="+address, "https_proxy="+address, "no_proxy=")
			var output bytes.Buffer
			cmd.Stdout, cmd.Stderr = &output, &output
			if err := cmd.Run(); (err == nil) != (test.status == http.StatusOK) {
				t.Error(err)
			}
			if !strings.Contains(output.String(), test.want) || strings.Contains(output.String(), "p4ssw0rd") {
				t.Errorf("the output is %q", &output)
			}
			if len(asked) != 1 || asked[0].Method != test.method || asked[0].RequestURI != test.uri || asked[0].Header.Get("Proxy-Authorization") == "" {
				t.Errorf("the proxy was asked %d times: %+v", len(asked), asked)
			}
		})
	}
}

// TestSlowIsNotStalled reads a body that takes longer than a stall, without
// ever standing still for as long as one.
func TestSlowIsNotStalled(t *testing.T) {
	patience := stalling(time.Second)
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		w.Header().Set("ETag", `"etag"`)
		for range 30 {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			time.Sleep(patience.Stall / 20)
		}
	}))
	defer server.Close()
	store := webStore(t, server, "", blob.Config{Patience: patience})
	data, _, err := blob.ReadAll(t.Context(), store, "object", 100, blob.GetOptions{})
	if len(data) != 30 || err != nil || requests.Load() != 1 {
		t.Errorf("read %d bytes by %d requests, error %v", len(data), requests.Load(), err)
	}
}
