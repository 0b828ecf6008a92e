package blob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/version"
)

// Patience is how long a store that is reached over the network bears with it.
type Patience struct {
	Retry retry.Policy
	Stall time.Duration // a connection on which nothing moves for so long is dead, and so is one on which no answer begins

	// An object of which fewer than Least bytes come in the time of Retry.Budget
	// doesn't get any further, and an answer that is no object ends in the time of
	// Answer. There is no such bound if they are 0.
	Least  int64
	Answer time.Duration
}

// DefaultPatience leaves a server a minute to think, which some need to put a
// large upload together, and ten until that is done, as they send blanks meanwhile.
var DefaultPatience = Patience{Retry: retry.Default, Stall: time.Minute, Least: 64 << 10, Answer: 10 * time.Minute}

// product is how we introduce ourselves to servers; our version goes with it.
const product = "nixos-closure"

// authorities returns whom the configuration trusts to vouch for servers: those
// that it names, besides the system's. Nil stands for the system's alone, whose
// hundreds of files are read when there is a certificate to judge: that takes
// longer than all else that a check does.
func authorities(config Config) (*x509.CertPool, error) {
	if len(config.CACerts) == 0 {
		return nil, nil
	}
	authorities, err := x509.SystemCertPool()
	if err != nil {
		authorities = x509.NewCertPool() // an image that has none
	}
	for i, pem := range config.CACerts {
		if !authorities.AppendCertsFromPEM([]byte(pem)) {
			return nil, hint.With(fmt.Errorf("number %d of ca_certs holds no certificate", i+1),
				"a certificate in PEM begins with -----BEGIN CERTIFICATE-----")
		}
	}
	return authorities, nil
}

// newTransport returns the way to servers: by the proxy that the environment
// names, trusting the system's certificate authorities and the configured ones.
// They will be needed if the servers are secure: then they are read while the
// first connection is being made.
func newTransport(config Config, secure bool) (http.RoundTripper, error) {
	authorities, err := authorities(config)
	if err != nil {
		return nil, err
	}
	if secure && authorities == nil && !config.SkipSSLVerification {
		go x509.SystemCertPool()
	}
	dialer := &net.Dialer{Timeout: config.Patience.Stall}
	return newPacer(answers{time: config.Patience.Answer, next: identified{&http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return impatient{conn, config.Patience.Stall}, nil
		},
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode/100 == 4 {
				return retry.Permanent(fmt.Errorf("the proxy answers %s", answer.Status))
			}
			return nil
		},
		TLSClientConfig:       &tls.Config{RootCAs: authorities, InsecureSkipVerify: config.SkipSSLVerification},
		TLSHandshakeTimeout:   config.Patience.Stall,
		ResponseHeaderTimeout: config.Patience.Stall, // to its end, once the request is sent
		IdleConnTimeout:       config.Patience.Stall / 2,
		ExpectContinueTimeout: time.Second,
		MaxIdleConnsPerHost:   64,   // as many as we have requests in flight, to use them again
		DisableCompression:    true, // what we read is hashed as it was stored
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,

		MaxResponseHeaderBytes: maxHeader,
	}}}), nil
}

type identified struct{ next http.RoundTripper }

func (t identified) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("User-Agent", product+"/"+version.Number)
	return t.next.RoundTrip(request)
}

// An impatient connection fails once nothing has moved on it, either way, for
// the time of a stall. While a body is being sent, nobody is expected to
// answer: so a write extends the time for the answer, too.
type impatient struct {
	net.Conn
	stall time.Duration
}

func (c impatient) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.stall)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c impatient) Write(p []byte) (n int, err error) {
	const chunk = 64 << 10 // small enough for a slow line to move in the time of a stall
	for len(p) > 0 && err == nil {
		if err := c.SetDeadline(time.Now().Add(c.stall)); err != nil {
			return n, err
		}
		var written int
		written, err = c.Conn.Write(p[:min(chunk, len(p))])
		n, p = n+written, p[written:]
	}
	return n, err
}
