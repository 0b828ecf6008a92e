package retry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// transientStatus are the HTTP statuses that another attempt may not meet.
var transientStatus = []int{
	http.StatusRequestTimeout,
	http.StatusTooEarly,
	http.StatusTooManyRequests,
	http.StatusInternalServerError,
	http.StatusBadGateway,
	http.StatusServiceUnavailable, // S3's SlowDown, too
	http.StatusGatewayTimeout,
	509,                     // bandwidth limit exceeded: some web hosts
	520, 521, 522, 523, 524, // Cloudflare's, about the server behind it
}

// transientCode are the error codes of S3 that mean the same, whatever the
// status: CompleteMultipartUpload may put one into an answer with status 200.
var transientCode = []string{
	"InternalError",
	"ConditionalRequestConflict", // with status 409, like the next one
	"OperationAborted",           // "a conflicting conditional operation is currently in progress"
	"RequestTimeout",             // with status 400: the body took too long to arrive
	"ServiceUnavailable",
	"SlowDown",
	"BadDigest", // with status 400: the body was damaged on its way
}

// Transient says whether err may go away by itself: the server is overloaded
// or out of order, or the connection broke or stalled. It is false for nil, for
// errors that aren't a request's, and for those that [Permanent] made.
func Transient(err error) bool {
	var permanent *permanentError
	if errors.As(err, &permanent) || neverConnects(err) {
		return false
	}
	var api interface{ ErrorCode() string }
	if errors.As(err, &api) && slices.Contains(transientCode, api.ErrorCode()) {
		return true
	}
	// A connection that broke in the middle of an answer. Of one with status 404, the
	// code of S3 is lost, and with it what isn't there.
	var connection *net.OpError
	broke := errors.As(err, &connection) || errors.Is(err, io.ErrUnexpectedEOF)
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) && answer.HTTPStatusCode() >= 300 {
		return slices.Contains(transientStatus, answer.HTTPStatusCode()) || broke && answer.HTTPStatusCode() == http.StatusNotFound
	}
	var request *url.Error // no answer to a request
	return broke || errors.As(err, &request)
}

// neverConnects is true of failures to connect that waiting doesn't cure: an
// unknown host, and everything about certificates.
func neverConnects(err error) bool {
	var (
		name        *net.DNSError
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		record      tls.RecordHeaderError
		alert       tls.AlertError
	)
	return errors.As(err, &name) && name.IsNotFound ||
		errors.As(err, &certificate) || errors.As(err, &authority) || errors.As(err, &hostname) ||
		errors.As(err, &record) || errors.As(err, &alert) || errors.Is(err, http.ErrSchemeMismatch)
}

// RetryAfter is the time that the server wants to pass before another attempt,
// or 0 if it said nothing about it.
func RetryAfter(err error) time.Duration {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) {
		return 0
	}
	value := answer.Response.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(date))
	}
	return 0
}

// Permanent returns err as one that is not Transient.
func Permanent(err error) error { return &permanentError{err} }

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }
