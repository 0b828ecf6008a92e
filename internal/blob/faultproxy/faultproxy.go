// Package faultproxy is a bad day on the network, for tests: an HTTP proxy in
// front of a real server that plays faults on the requests that a test names,
// or at random from a seed.
//
// It passes requests on as they are signed, so the server sees its own client.
package faultproxy

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A Fault is something that happens to one request.
type Fault string

// The faults.
const (
	Reset           Fault = "the connection is reset before the server has the request"
	LostAnswer      Fault = "the connection is reset after the server has done what it was asked"
	Close           Fault = "the connection is closed instead of an answer"
	Stall           Fault = "no answer comes"
	StalledRequest  Fault = "nobody reads the request's body"
	StalledAnswer   Fault = "the answer's body stops halfway"
	TruncatedAnswer Fault = "the connection is closed halfway through the answer's body"
	SlowDown        Fault = "503 SlowDown"
	TooManyRequests Fault = "429 with Retry-After"
	InternalError   Fault = "500"
	BadGateway      Fault = "502 with a page of HTML"
)

// Faults are all of them.
var Faults = []Fault{Reset, LostAnswer, Close, Stall, StalledRequest, StalledAnswer, TruncatedAnswer, SlowDown, TooManyRequests, InternalError, BadGateway}

// A Proxy stands before a server.
type Proxy struct {
	URL string // such as http://127.0.0.1:12345

	// Played, if not nil, is called for each fault when the server has done
	// what it still does and before the client knows. It must be set before
	// the first request.
	Played func(fault Fault, operation string)

	target    string // host and port
	transport *http.Transport
	done      chan struct{}

	mutex       sync.Mutex
	operations  []string
	requests    []string
	fault       Fault
	operation   string
	times       int
	met         map[string]bool // by PlayOnEach, the operations that had their fault
	random      *rand.Rand
	probability float64
}

// New starts a proxy before the server at url, until the test ends.
func New(t testing.TB, url string) *Proxy {
	p := &Proxy{
		target:    strings.TrimPrefix(url, "http://"),
		transport: &http.Transport{DisableCompression: true},
		done:      make(chan struct{}),
	}
	server := httptest.NewServer(p)
	t.Cleanup(func() {
		close(p.done)
		server.Close()
		p.transport.CloseIdleConnections()
	})
	p.URL = server.URL
	return p
}

// Play plays the fault on the next requests for an operation of S3, so many
// times. It replaces what was to be played before.
func (p *Proxy) Play(fault Fault, operation string, times int) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.fault, p.operation, p.times, p.met, p.random = fault, operation, times, nil, nil
}

// PlayOnEach plays the fault on the next request for each operation, once.
func (p *Proxy) PlayOnEach(fault Fault) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.fault, p.times, p.met, p.random = fault, 0, map[string]bool{}, nil
}

// PlayAtRandom plays any fault on any request with a probability, from now on.
func (p *Proxy) PlayAtRandom(seed uint64, probability float64) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.times, p.met, p.random, p.probability = 0, nil, rand.New(rand.NewPCG(seed, seed)), probability
}

// Operations returns, and forgets, the operations that were asked for.
func (p *Proxy) Operations() []string {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	operations := p.operations
	p.operations = nil
	return operations
}

// Requests returns, and forgets, what was asked for: each operation with the path
// of its URL.
func (p *Proxy) Requests() []string {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	requests := p.requests
	p.requests = nil
	return requests
}

// next returns the fault to play on the next request, if any.
func (p *Proxy) next(operation, path string) Fault {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.operations = append(p.operations, operation)
	p.requests = append(p.requests, operation+" "+path)
	if p.random != nil && p.random.Float64() < p.probability {
		return Faults[p.random.IntN(len(Faults))]
	}
	if p.met != nil && !p.met[operation] {
		p.met[operation] = true
		return p.fault
	}
	if p.times > 0 && operation == p.operation {
		p.times--
		return p.fault
	}
	return ""
}

// Operation returns the name of what a request asks S3 for.
func Operation(r *http.Request) string {
	query := r.URL.Query()
	switch {
	case query.Has("list-type"):
		return "ListObjectsV2"
	case query.Has("uploads") && r.Method == http.MethodPost:
		return "CreateMultipartUpload"
	case query.Has("uploadId"):
		return map[string]string{
			http.MethodPut:    "UploadPart",
			http.MethodPost:   "CompleteMultipartUpload",
			http.MethodDelete: "AbortMultipartUpload",
		}[r.Method]
	}
	return map[string]string{
		http.MethodGet:    "GetObject",
		http.MethodHead:   "HeadObject",
		http.MethodPut:    "PutObject",
		http.MethodDelete: "DeleteObject",
	}[r.Method]
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	operation := Operation(r)
	fault := p.next(operation, r.URL.Path)
	var answer *http.Response
	switch fault {
	case "", LostAnswer, StalledAnswer, TruncatedAnswer:
		var err error
		if answer, err = p.forward(r); err != nil {
			reset(hijack(w))
			return
		}
		defer answer.Body.Close()
	case Reset, StalledRequest: // the body stays where it is
	default:
		io.Copy(io.Discard, r.Body)
	}
	if fault != "" && p.Played != nil {
		p.Played(fault, operation)
	}
	switch fault {
	case "":
		maps.Copy(w.Header(), answer.Header)
		w.WriteHeader(answer.StatusCode)
		io.Copy(w, answer.Body)
	case Reset, LostAnswer:
		reset(hijack(w))
	case Close:
		hijack(w).Close()
	case Stall, StalledRequest:
		p.hold(hijack(w))
	case StalledAnswer:
		conn := hijack(w)
		writeHalf(conn, answer)
		p.hold(conn)
	case TruncatedAnswer:
		conn := hijack(w)
		writeHalf(conn, answer)
		conn.Close()
	case SlowDown:
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
	case TooManyRequests:
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, "TooManyRequests")
	case InternalError:
		refuse(w, http.StatusInternalServerError, "InternalError")
	case BadGateway:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusBadGateway)
		io.WriteString(w, "<html><body>Bad Gateway")
	}
}

// forward asks the server. The request keeps its Host, which is signed.
func (p *Proxy) forward(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = "http", p.target
	out.RequestURI = ""
	out.Header.Del("Expect") // is answered by us
	if out.ContentLength == 0 {
		out.Body = nil
	}
	return p.transport.RoundTrip(out)
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>a fault was played</Message></Error>", code)
}

func hijack(w http.ResponseWriter) *net.TCPConn {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	return conn.(*net.TCPConn)
}

func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// hold keeps the connection open, reading nothing from it, until the test ends.
func (p *Proxy) hold(conn *net.TCPConn) {
	go func() {
		<-p.done
		conn.Close()
	}()
}

// writeHalf writes an answer up to the middle of its body; of one without a
// body, up to the middle of its header, and of a line there.
func writeHalf(conn net.Conn, answer *http.Response) {
	body, _ := io.ReadAll(answer.Body)
	if len(body) > 0 {
		answer.Header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	var header bytes.Buffer
	fmt.Fprintf(&header, "HTTP/1.1 %s\r\n", answer.Status)
	answer.Header.Write(&header)
	if len(body) == 0 {
		half := header.Bytes()[:header.Len()/2]
		conn.Write(header.Bytes()[:bytes.LastIndexByte(half, '\n')+3])
		return
	}
	header.WriteString("\r\n")
	conn.Write(append(header.Bytes(), body[:len(body)/2]...))
}
