package retry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

func answer(status int, header http.Header, err error) error {
	return fmt.Errorf("operation: %w", &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status, Header: header}},
		Err:      err,
	})
}

func TestTransient(t *testing.T) {
	request := func(err error) error { return &url.Error{Op: "Get", URL: "http://host/", Err: err} }
	code := func(code string) error { return &smithy.GenericAPIError{Code: code} }
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"nil":                  {nil, false},
		"anything else":        {broken, false},
		"429":                  {answer(429, nil, broken), true},
		"500":                  {answer(500, nil, broken), true},
		"501":                  {answer(501, nil, broken), false},
		"503":                  {answer(503, nil, code("SlowDown")), true},
		"304":                  {answer(304, nil, broken), false},
		"400":                  {answer(400, nil, code("InvalidRequest")), false},
		"403":                  {answer(403, nil, code("AccessDenied")), false},
		"404":                  {answer(404, nil, code("NoSuchKey")), false},
		"412":                  {answer(412, nil, code("PreconditionFailed")), false},
		"400 that is slow":     {answer(400, nil, code("RequestTimeout")), true},
		"200 that is an error": {answer(200, nil, code("InternalError")), true},
		"200 of half a body":   {answer(200, nil, io.ErrUnexpectedEOF), true},
		"reset":                {request(&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}), true},
		"reset in the body":    {fmt.Errorf("reading: %w", &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}), true},
		"refused":              {request(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}), true},
		"closed":               {request(io.EOF), true},
		"truncated":            {fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), true},
		"stalled":              {request(os.ErrDeadlineExceeded), true},
		"stalled in the body":  {fmt.Errorf("reading: %w", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}), true},
		"no name server":       {request(&net.DNSError{IsTemporary: true}), true},
		"unknown host":         {request(&net.DNSError{IsNotFound: true}), false},
		"unknown authority":    {request(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), false},
		"http on a TLS port":   {request(http.ErrSchemeMismatch), false},
		"a full disk":          {syscall.ENOSPC, false},
		"permanent":            {fmt.Errorf("wrapped: %w", Permanent(request(io.EOF))), false},
	} {
		if got := Transient(test.err); got != test.want {
			t.Errorf("%s: Transient(%v) = %v", name, test.err, got)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for _, test := range []struct {
		value string
		want  time.Duration
	}{
		{"", 0}, {"7", 7 * time.Second}, {"-7", 0}, {"soon", 0},
		{time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), time.Hour},
		{time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), 0},
	} {
		got := RetryAfter(answer(429, http.Header{"Retry-After": {test.value}}, nil))
		if diff := got - test.want; diff.Abs() > 2*time.Second {
			t.Errorf("%q: %v, want %v", test.value, got, test.want)
		}
	}
}

var fast = Policy{First: time.Microsecond, Longest: time.Millisecond, Budget: 50 * time.Millisecond}

func TestDo(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		errs []error // of the attempts, the last one again and again
		want error
		n    int
	}{
		"success":          {[]error{nil}, nil, 1},
		"the third time":   {[]error{io.ErrUnexpectedEOF, io.ErrUnexpectedEOF, nil}, nil, 3},
		"permanent":        {[]error{broken}, broken, 1},
		"permanent, later": {[]error{io.ErrUnexpectedEOF, broken}, broken, 2},
		"asked to wait":    {[]error{answer(429, http.Header{"Retry-After": {"3600"}}, broken), nil}, broken, 1},
	} {
		var n int
		err := fast.Do(t.Context(), func() error {
			n++
			return test.errs[min(n, len(test.errs))-1]
		})
		if !errors.Is(err, test.want) || n != test.n {
			t.Errorf("%s: error %v after %d attempts, want %v after %d", name, err, n, test.want, test.n)
		}
	}
}

func TestDoEnds(t *testing.T) {
	begin := time.Now()
	var n int
	err := fast.Do(t.Context(), func() error { n++; return io.ErrUnexpectedEOF })
	if took := time.Since(begin); !errors.Is(err, io.ErrUnexpectedEOF) || n < 3 || took > 100*fast.Budget {
		t.Errorf("%d attempts in %v, error %v", n, took, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	slow := Policy{First: time.Hour, Longest: time.Hour, Budget: 24 * time.Hour}
	err = slow.Do(ctx, func() error { cancel(); return io.ErrUnexpectedEOF })
	if !errors.Is(err, context.Canceled) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cancelled: error %v", err)
	}
}

func TestWait(t *testing.T) {
	p := Policy{First: time.Second, Longest: 5 * time.Second}
	longest := make(map[int]time.Duration)
	for range 2000 {
		for _, n := range []int{1, 2, 3, 4, 50} {
			longest[n] = max(longest[n], p.wait(n, nil))
		}
	}
	for n, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 5 * time.Second, 50: 5 * time.Second} {
		if got := longest[n]; got > want+1 || got < want*9/10 {
			t.Errorf("after attempt %d the longest wait is %v, want up to %v", n, got, want)
		}
	}
}

// TestTransientForReal meets the errors as net/http makes them.
func TestTransientForReal(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/truncated" {
			w.Header().Set("Content-Length", "100")
			return
		}
		conn, _, _ := w.(http.Hijacker).Hijack()
		conn.Close()
	}))
	defer plain.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for url, want := range map[string]bool{
		secure.URL:                         false,
		"http" + secure.URL[len("https"):]: false,
		"https" + plain.URL[len("http"):]:  false,
		plain.URL + "/closed":              true,
		plain.URL + "/truncated":           true,
		gone.URL:                           true,
	} {
		response, err := http.Get(url)
		if err == nil {
			_, err = io.ReadAll(response.Body)
			response.Body.Close()
		}
		if got := Transient(err); got != want {
			t.Errorf("%s: Transient(%v) = %v (%T)", url, err, got, errors.Unwrap(err))
		}
	}
}

// Who waits for more than a few seconds is told why; what can be done without is
// not waited for.
func TestNoticeAndWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := answer(503, nil, errors.New("down"))
		begin, noticed := time.Now(), 0
		ctx := Noticing(t.Context(), func(err error) {
			if !errors.Is(err, failure) {
				t.Errorf("noticed %v", err)
			}
			if time.Since(begin) > 20*time.Second && noticed == 0 {
				t.Errorf("noticed only after %s", time.Since(begin))
			}
			noticed++
		})
		Default.Do(ctx, func() error { return failure })
		if noticed == 0 {
			t.Error("nobody was told")
		}
		begin, noticed = time.Now(), 0
		Default.Do(Within(ctx, 2*time.Second), func() error { return failure })
		if passed := time.Since(begin); passed > 2*time.Second || noticed > 0 {
			t.Errorf("waited for %s, told %d times", passed, noticed)
		}
	})
}
