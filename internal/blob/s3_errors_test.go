package blob_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// wantExplained looks at an error as its reader will: it means what it should,
// says what to do, and gives nothing away.
func wantExplained(t *testing.T, err, meaning error, advice string, secrets ...string) {
	t.Helper()
	hints := strings.Join(hint.Of(err), "\n")
	if err == nil || meaning != nil && !errors.Is(err, meaning) {
		t.Errorf("the error is %v, want one that means %v", err, meaning)
	}
	if meaning == nil && (errors.Is(err, blob.ErrNotExist) || errors.Is(err, blob.ErrPermission)) {
		t.Errorf("the error means something about the object: %v", err)
	}
	if !strings.Contains(hints, advice) || advice == "" && hints != "" {
		t.Errorf("the hints are %q, want %q", hints, advice)
	}
	for _, secret := range secrets {
		if text := fmt.Sprintf("%v %+v %#v %s", err, err, err, hints); secret != "" && strings.Contains(text, secret) {
			t.Errorf("the secret %q is in %s", secret, text)
		}
	}
}

func TestS3Errors(t *testing.T) {
	server := s3test.Versitygw(t)
	bucket := server.Bucket(t)
	closed := httptest.NewServer(nil)
	closed.Close()
	good := server.Config()
	for _, test := range []struct {
		name    string
		cache   *url.URL
		config  blob.Config
		meaning error
		advice  string
	}{
		{"no such object", server.Cache(bucket), good, blob.ErrNotExist, ""},
		{"no such bucket", server.Cache("no-such-bucket"), good, nil, "there is no bucket no-such-bucket at " + server.URL},
		{"anonymous", server.Cache(bucket + "/prefix"), blob.Config{}, blob.ErrPermission,
			"the request was anonymous: set access_key_id and secret_access_key, or allow everybody s3:GetObject on arn:aws:s3:::" + bucket + "/prefix/object; without s3:ListBucket"},
		{"a stranger", server.Cache(bucket), server.User(t, "stranger"), blob.ErrPermission, "allow s3:GetObject on arn:aws:s3:::" + bucket + "/object"},
		{"unknown key", server.Cache(bucket), blob.Config{AccessKeyID: "nobody", SecretAccessKey: "s3cr3t"}, blob.ErrPermission, "doesn't know the access_key_id"},
		{"wrong secret", server.Cache(bucket), blob.Config{AccessKeyID: good.AccessKeyID, SecretAccessKey: "s3cr3t"}, blob.ErrPermission, "the secret_access_key doesn't belong to"},
		{"wrong token", server.Cache(bucket), blob.Config{AccessKeyID: good.AccessKeyID, SecretAccessKey: good.SecretAccessKey, SessionToken: "t0k3n"}, nil, "session_token"},
		{"wrong region", withParameter(server.Cache(bucket), "region", "eu-west-1"), good, nil, "correct region=…"},
		{"nobody listens", s3test.CacheAt(closed.URL, bucket), good, nil, "nothing listens there"},
		{"TLS to a plain server", s3test.CacheAt("https"+server.URL[len("http"):], bucket), good, nil, "write http:// for it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.config.Patience = quick
			test.config.Patience.Retry.Budget = 50 * time.Millisecond
			store := openStore(t, test.cache, test.config)
			_, err := store.Get(t.Context(), "object", blob.GetOptions{})
			wantExplained(t, err, test.meaning, test.advice, test.config.SecretAccessKey, test.config.SessionToken)
			if test.name == "no such bucket" {
				return // a HEAD can't tell
			}
			_, err = store.Stat(t.Context(), "object")
			wantExplained(t, err, test.meaning, test.advice, test.config.SecretAccessKey, test.config.SessionToken)
		})
	}
	store := openStore(t, server.Cache(bucket), server.User(t, "nobody"))
	// What has a name of its own is named; what is one of many, as a policy has it.
	for key, want := range map[string]string{
		"object":              "object",
		"pointers/web-1.json": "pointers/web-1.json",
		"leases/00bgd045z0d4icpbc2yyz4gx48ak44la":                          "leases/*",
		"00bgd045z0d4icpbc2yyz4gx48ak44la.narinfo":                         "*.narinfo",
		"nar/1s8vgcv5j41al3hkva88g1h4jzyn3xh1jk054gdbcvpvczd4j66h.nar.zst": "nar/*",
		"log/00bgd045z0d4icpbc2yyz4gx48ak44la-motd.drv":                    "log/*",
		"changes/web-1/12.json":                                            "changes/web-1/*",
	} {
		_, err := store.Put(t.Context(), key, strings.NewReader("x"), blob.PutOptions{})
		wantExplained(t, err, blob.ErrPermission, "allow s3:PutObject on arn:aws:s3:::"+bucket+"/"+want+"; docs/permissions.md has whole policies")
	}
	wantExplained(t, store.Delete(t.Context(), "object"), blob.ErrPermission, "allow s3:DeleteObject on arn:aws:s3:::"+bucket+"/object")
	for _, err := range store.List(t.Context(), "") {
		wantExplained(t, err, blob.ErrPermission, "allow s3:ListBucket on arn:aws:s3:::"+bucket)
	}
}

func withParameter(u *url.URL, key, value string) *url.URL {
	query := u.Query()
	query.Set(key, value)
	u.RawQuery = query.Encode()
	return u
}

// TestS3ErrorsOfAmazon plays answers that no server here gives.
func TestS3ErrorsOfAmazon(t *testing.T) {
	for _, test := range []struct {
		status  int
		code    string
		header  http.Header
		meaning error
		advice  string
	}{
		{301, "PermanentRedirect", http.Header{"X-Amz-Bucket-Region": {"eu-central-1"}, "Location": {"http://elsewhere.invalid/"}}, nil, "write region=eu-central-1 into"},
		{307, "TemporaryRedirect", http.Header{"Location": {"http://elsewhere.invalid/"}}, nil, "correct region=…"},
		{403, "RequestTimeTooSkewed", http.Header{"Date": {"Sun, 22 Nov 2026 17:18:40 GMT"}}, blob.ErrPermission, "the server's says Sun, 22 Nov 2026 17:18:40 GMT"},
		{400, "ExpiredToken", nil, nil, "the session_token has expired"},
		{403, "AccountProblem", nil, blob.ErrPermission, "allow s3:GetObject"},
		{501, "NotImplemented", nil, errors.ErrUnsupported, ""},
		{400, "TooBig", nil, nil, ""},
	} {
		t.Run(test.code, func(t *testing.T) {
			fake := &fakeS3{answer: func(w http.ResponseWriter, r *http.Request) bool {
				for key, values := range test.header {
					w.Header()[key] = values
				}
				w.WriteHeader(test.status)
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>words of the server.</Message></Error>", test.code)
				return true
			}}
			server := httptest.NewServer(fake)
			defer server.Close()
			store := openStore(t, s3test.CacheAt(server.URL, "bucket"), blob.Config{AccessKeyID: "key", SecretAccessKey: "s3cr3t"})
			_, err := store.Get(t.Context(), "object", blob.GetOptions{})
			wantExplained(t, err, test.meaning, test.advice, "s3cr3t")
			want := fmt.Sprintf("reading object in s3://bucket: %s answers %d %s: words of the server", server.URL, test.status, test.code)
			if err != nil && err.Error() != want {
				t.Errorf("the error is %q, want %q", err, want)
			}
			if n := len(fake.asked()); n != 1 {
				t.Errorf("it was asked %d times", n)
			}
		})
	}
}

// TestS3ErrorWithoutWords plays what some load balancer may answer.
func TestS3ErrorWithoutWords(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "<html>I'm")
	}))
	defer server.Close()
	store := openStore(t, s3test.CacheAt(server.URL, "bucket"), blob.Config{})
	_, err := store.Get(t.Context(), "object", blob.GetOptions{})
	wantExplained(t, err, nil, "")
	if !strings.Contains(err.Error(), "418") {
		t.Errorf("the error is %v", err)
	}
}

// TestS3NotFoundBreaksOff: what an answer means that breaks off isn't known, and so
// it is asked for again.
func TestS3NotFoundBreaksOff(t *testing.T) {
	const body = `<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>words</Message></Error>`
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(http.StatusNotFound)
		if asked.Add(1) == 1 {
			io.WriteString(w, body[:20])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, body)
	}))
	defer server.Close()
	store := openStore(t, s3test.CacheAt(server.URL, "bucket"), blob.Config{})
	if _, err := store.Get(t.Context(), "object", blob.GetOptions{}); !errors.Is(err, blob.ErrNotExist) || asked.Load() != 2 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
}

// TestS3NotFound tells an object that isn't there from everything else that is
// answered by status 404: a server that isn't S3 is not an empty bucket.
func TestS3NotFound(t *testing.T) {
	document := func(code string) string {
		return `<?xml version="1.0" encoding="UTF-8"?><Error><Code>` + code + `</Code><Message>words of the server</Message></Error>`
	}
	for _, test := range []struct {
		name, body string
		missing    bool
	}{
		{"NoSuchKey", document("NoSuchKey"), true},
		{"NotFound", document("NotFound"), true},
		{"NoSuchBucket", document("NoSuchBucket"), false},
		{"an unknown user of versitygw", document("XAdminUserNotFound"), false},
		{"a web page", "<!doctype html><html><body>Not Found</body></html>", false},
		{"nothing", "", false},
		{"a document without a code", "<Error></Error>", false},
		{"text", "404 page not found", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusNotFound)
				io.WriteString(w, test.body)
			}))
			defer server.Close()
			store := openStore(t, s3test.CacheAt(server.URL, "bucket"), blob.Config{})
			_, err := store.Get(t.Context(), "object", blob.GetOptions{})
			if errors.Is(err, blob.ErrNotExist) != test.missing || err == nil {
				t.Errorf("a GET: %v", err)
			}
			if _, err := store.Stat(t.Context(), "object"); !errors.Is(err, blob.ErrNotExist) {
				t.Errorf("a HEAD, which has no body: %v", err)
			}
		})
	}
}
