package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"

	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/compression"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// A Web is a Store that can only be read: files behind a web server.
type Web struct {
	base          *url.URL // without a slash at its end
	authorization string   // the header, for requests to base's server and no other
	client        *http.Client
	patience      Patience
}

var _ remote = (*Web)(nil)

// openWeb returns the store at u. It makes no request.
func openWeb(u *url.URL, config Config) (*Web, error) {
	base := webBase(u)
	if u.Host == "" {
		return nil, fmt.Errorf("the cache's URL names no server")
	}
	if u.User != nil {
		return nil, hint.With(fmt.Errorf("the URL of the cache at %s has credentials in it, and URLs get into logs", base), "put them into netrc")
	}
	authorization, err := webAuthorization(u.Hostname(), config)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(config, base.Scheme == "https")
	if err != nil {
		return nil, err
	}
	w := &Web{base: base, authorization: authorization, patience: config.Patience}
	w.client = &http.Client{
		Transport: authorized{transport, w},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			switch {
			case len(via) == maxRedirects:
				return retry.Permanent(fmt.Errorf("redirected more than %d times", maxRedirects))
			case next.URL.Scheme != "https" && next.URL.Scheme != "http":
				return retry.Permanent(fmt.Errorf("redirected to a %q URL, where no web server is", next.URL.Scheme))
			}
			return nil
		},
	}
	return w, nil
}

// webBase is where the keys of the store at u begin.
func webBase(u *url.URL) *url.URL {
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}
}

const maxRedirects = 10

func webAuthorization(host string, config Config) (string, error) {
	if config.BearerToken != "" {
		return "Bearer " + config.BearerToken, nil
	}
	login, password, err := netrcFor(host, config.Netrc)
	if err != nil || login == "" && password == "" {
		return "", err
	}
	request := http.Request{Header: make(http.Header)}
	request.SetBasicAuth(login, password)
	return request.Header.Get("Authorization"), nil
}

// authorized adds the credentials to the requests that are for them. It works
// on each request by itself, so it doesn't matter where a redirect leads.
type authorized struct {
	next http.RoundTripper
	web  *Web
}

func (t authorized) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme == t.web.base.Scheme && request.URL.Host == t.web.base.Host && t.web.authorization != "" {
		request = request.Clone(request.Context())
		request.Header.Set("Authorization", t.web.authorization)
	}
	return t.next.RoundTrip(request)
}

// Capabilities implements [Store].
func (w *Web) Capabilities() Capabilities { return Capabilities{} }

// String implements [Store].
func (w *Web) String() string { return w.base.String() }

// Location implements [Store].
func (w *Web) Location() Location { return Location{w.base.String()} }

// Get implements [Store].
func (w *Web) Get(ctx context.Context, key string, opts GetOptions) (*Object, error) {
	object, err := getRemote(ctx, w, w.patience, key, opts)
	if err != nil {
		return nil, failed("reading", key, w, err)
	}
	return object, nil
}

func (w *Web) open(ctx context.Context, key string, offset int64, ifMatch, ifNoneMatch string) (Info, string, io.ReadCloser, error) {
	header := make(http.Header)
	if ifMatch != "" {
		header.Set("If-Match", ifMatch)
	}
	if ifNoneMatch != "" {
		header.Set("If-None-Match", ifNoneMatch)
	}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, info, err := w.do(ctx, http.MethodGet, key, header)
	if err != nil {
		return Info{}, "", nil, err
	}
	if ifMatch != "" && info.ETag != ifMatch { // a server that doesn't know the condition
		response.Body.Close()
		return Info{}, "", nil, ErrPrecondition
	}
	size, rest, err := rangeOf(response.Body, offset, response.ContentLength, response.Header.Get("Content-Range"))
	info.Size = size
	return info, response.Header.Get("Content-Encoding"), rest, err
}

// Stat implements [Store].
func (w *Web) Stat(ctx context.Context, key string) (Info, error) {
	info, err := statRemote(ctx, w, w.patience.Retry, key)
	if err != nil {
		return Info{}, failed("looking up", key, w, err)
	}
	return info, nil
}

func (w *Web) stat(ctx context.Context, key string) (Info, error) {
	response, info, err := w.do(ctx, http.MethodHead, key, make(http.Header))
	if err != nil {
		return Info{}, err
	}
	response.Body.Close()
	return info, nil
}

// do makes a request. If the server answers that it has the object, the caller
// must close the response's body.
func (w *Web) do(ctx context.Context, method, key string, header http.Header) (*http.Response, Info, error) {
	request, err := http.NewRequestWithContext(ctx, method, w.base.JoinPath("").String(), nil)
	if err != nil {
		return nil, Info{}, err
	}
	w.resolve(request.URL, key)
	request.Header = header
	response, err := w.client.Do(request)
	if err != nil {
		return nil, Info{}, explainConnection(err, w.base.Host)
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusPartialContent {
		response.Body.Close()
		return nil, Info{}, w.explain(response)
	}
	info := Info{Key: key, Size: response.ContentLength, ETag: response.Header.Get("ETag")}
	if compression.IsEncoded(response.Header.Get("Content-Encoding")) && method == http.MethodHead {
		info.Size = -1
	}
	if modified, err := http.ParseTime(response.Header.Get("Last-Modified")); err == nil {
		info.Modified = modified.UTC()
	}
	return response, info, nil
}

// resolve makes u the URL of an object. A key is a reference relative to the cache's
// URL, as Nix takes it: it may have a query, as the NARs of harmonia and snix have,
// and escapes stay as they are.
func (w *Web) resolve(u *url.URL, key string) {
	name, query, _ := strings.Cut(key, "?")
	u.RawQuery = query
	plain, err := url.PathUnescape(name)
	if err != nil {
		plain = name
	}
	u.Path = w.base.Path + "/" + plain
	u.RawPath = w.base.EscapedPath() + "/" + name // which counts if it is a way to write Path
}

// explain returns the error that an answer without an object is.
func (w *Web) explain(response *http.Response) error {
	explained := &remoteError{
		text:  fmt.Sprintf("%s answers %s", w.base.Host, response.Status),
		kind:  kindOf(response.StatusCode, ""),
		cause: &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: response}, Err: errors.New(response.Status)},
	}
	switch {
	case response.StatusCode == http.StatusGone:
		explained.kind = ErrNotExist
	case explained.kind == ErrPermission && w.authorization == "":
		return hint.With(explained, "if the cache wants credentials, set netrc or bearer_token")
	case explained.kind == ErrPermission:
		return hint.With(explained, "netrc or bearer_token is not accepted there, or doesn't permit this")
	}
	return explained
}

// Put implements [Store].
func (w *Web) Put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	return Info{}, w.readOnly("writing", key)
}

// Delete implements [Store].
func (w *Web) Delete(ctx context.Context, key string) error { return w.readOnly("deleting", key) }

func (w *Web) readOnly(doing, key string) error {
	return hint.With(failed(doing, key, w, ErrReadOnly), "write to a cache by its s3:// or file:// URL")
}

// List implements [Store].
func (w *Web) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		yield(Info{}, fmt.Errorf("listing %s/%s*: %w on a web server", w, prefix, errors.ErrUnsupported))
	}
}
