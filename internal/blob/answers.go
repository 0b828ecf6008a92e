package blob

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
)

// What a server answers is not believed to end, nor to be HTTP. These are the
// bounds, in bytes, of what is no object: of that, a body ends where its reader
// stops, and a resumingBody bounds how slow it may be.
const (
	maxHeader  = 256 << 10
	maxFailure = 64 << 10 // what says why there is no object
	maxAnswer  = 16 << 20 // a thousand listed keys of 1024 escaped bytes each, and more
)

// answers makes the answers of servers end.
type answers struct {
	next http.RoundTripper
	time time.Duration // for a body that is no object; 0: no bound
}

func (t answers) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(request)
	if err != nil {
		return nil, neverHTTP(err)
	}
	if location := response.Header.Get("Location"); response.StatusCode/100 == 3 && location != "" {
		if _, err := url.Parse(location); err != nil {
			response.Body.Close()
			return nil, retry.Permanent(errors.New("redirected to what is not a URL"))
		}
	}
	bounded := &boundedBody{ReadCloser: response.Body, left: maxAnswer}
	if t.time > 0 {
		bounded.until = time.Now().Add(t.time)
	}
	switch {
	case response.StatusCode/100 != 2:
		bounded.left, bounded.cut = maxFailure, true
		response.Body = bounded
	case request.Method != http.MethodGet || request.URL.Query().Has("list-type"):
		response.Body = bounded
	}
	return response, nil
}

// neverHTTP returns err as one that no other attempt cures if what answers doesn't
// speak HTTP, or doesn't end its header. The errors of net/http for that have no
// types. A header that is merely cut short is malformed, too, and may be whole the
// next time.
func neverHTTP(err error) error {
	text := err.Error()
	_, answer, malformed := strings.Cut(text, `malformed HTTP response "`)
	if malformed && !strings.HasPrefix(answer, "H") ||
		strings.Contains(text, "server response headers exceeded") ||
		strings.Contains(text, "too many 1xx informational responses") {
		return retry.Permanent(err)
	}
	return err
}

// A boundedBody is a body that ends after so many bytes, and at some time.
type boundedBody struct {
	io.ReadCloser
	left  int64
	until time.Time // zero: no bound
	cut   bool      // what is beyond isn't needed
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 || !b.until.IsZero() && time.Now().After(b.until) {
		if b.cut {
			return 0, io.EOF
		}
		return 0, retry.Permanent(fmt.Errorf("the server's answer doesn't end"))
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
