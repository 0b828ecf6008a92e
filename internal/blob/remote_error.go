package blob

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// A remoteError is an answer that is an error, or the lack of one, in few words
// and with the meaning that callers branch on.
type remoteError struct {
	text  string
	kind  error // one of the errors of this package, or nil
	cause error // in which package retry finds what it needs
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() []error {
	if e.kind == nil {
		return []error{e.cause}
	}
	return []error{e.kind, e.cause}
}

// kindOf is the meaning of an HTTP status and an error code of S3, if any.
func kindOf(status int, code string) error {
	switch {
	case status == http.StatusNotFound && !saysMissing(code):
		return nil // a mistake, such as a bucket that isn't there, not an object that isn't there yet
	case status == http.StatusNotFound:
		return ErrNotExist
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return ErrPermission
	case status == http.StatusNotModified:
		return ErrNotModified
	case status == http.StatusPreconditionFailed:
		return ErrPrecondition
	case status == http.StatusNotImplemented:
		return errors.ErrUnsupported
	}
	return nil
}

// saysMissing says whether an answer with status 404 and that code is about the
// object. A web server has no code, and S3's answer to a HEAD only has the status,
// of which the SDK makes NotFound. Other codes are about something else: servers
// have them for buckets, uploads, users and keys that they don't know.
func saysMissing(code string) bool {
	return code == "" || code == "NoSuchKey" || code == "NotFound"
}

// statusOf returns the HTTP status that err is about, or 0.
func statusOf(err error) int {
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) && answer.Response != nil {
		return answer.HTTPStatusCode()
	}
	return 0
}

// IsForbidden says whether err is an answer with status 403, by which some servers
// say that an object doesn't exist to those who may not list them; with status 401
// they ask for credentials.
func IsForbidden(err error) bool {
	return errors.Is(err, ErrPermission) && statusOf(err) == http.StatusForbidden
}

// explainConnection makes an error without an HTTP status, met on the way to
// endpoint, one that says what to do. It doesn't say the request's URL, which a
// redirect may have brought and which may hold a signature.
func explainConnection(err error, endpoint string) error {
	var request *url.Error
	if !errors.As(err, &request) {
		return err
	}
	failure := &remoteError{text: fmt.Sprintf("reaching %s: %v", endpoint, request.Err), cause: err}
	var (
		name        *net.DNSError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		certificate x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &name) && name.IsNotFound:
		return hint.With(failure, "no such host is known: check the name in the cache's URL (for S3: its endpoint and region)")
	case errors.As(err, &authority):
		return hint.With(failure, "if the server's certificate is signed by an authority of your own, put that one's certificate into ca_certs")
	case errors.As(err, &hostname):
		return hint.With(failure, "reach the server by a name that its certificate is for")
	case errors.As(err, &certificate) && certificate.Reason == x509.Expired:
		return hint.With(failure, "the server's certificate has expired, or this machine's clock is wrong: it says %s", time.Now().UTC().Format(time.RFC3339))
	case errors.Is(err, http.ErrSchemeMismatch):
		return hint.With(failure, "the server speaks plain http: write http:// for it (or disable_ssl: true)")
	case errors.Is(err, syscall.ECONNREFUSED):
		return hint.With(failure, "nothing listens there: check host and port, and whether the server is running")
	}
	return failure
}
