package blob

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// TestExplainConnection explains what can't be provoked without a name server
// and a certificate authority. TestS3Errors and TestCertificates do the rest.
func TestExplainConnection(t *testing.T) {
	for _, test := range []struct {
		err       error
		advice    string
		transient bool
	}{
		{&net.OpError{Op: "dial", Err: &net.DNSError{Name: "host", IsNotFound: true}}, "no such host is known", false},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Name: "host", IsTemporary: true}}, "", true},
		{&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired}}, "has expired, or this machine's clock is wrong", false},
		{errors.New("anything else"), "", true},
	} {
		got := explainConnection(&url.Error{Op: "Get", URL: "https://host/?signature=s3cr3t", Err: test.err}, "https://host")
		advice := strings.Join(hint.Of(got), "\n")
		if !strings.Contains(advice, test.advice) || (test.advice == "") != (advice == "") || retry.Transient(got) != test.transient {
			t.Errorf("%v: transient %v, hints %q", got, retry.Transient(got), advice)
		}
		if !strings.HasPrefix(got.Error(), "reaching https://host: ") || strings.Contains(got.Error(), "s3cr3t") {
			t.Errorf("the error is %q", got)
		}
	}
}
