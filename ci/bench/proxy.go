package main

import (
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"
)

// A proxy is a longer way to a server: each request reaches it later by a
// delay, as if the server were that round trip away. It counts what passes. (A
// new connection costs nothing, and bandwidth is not limited.)
type proxy struct {
	url   string
	delay time.Duration
	http  *http.Server
	next  *httputil.ReverseProxy

	mutex sync.Mutex
	now   int // requests that are being answered
	traffic
}

// traffic is what has passed a proxy.
type traffic struct {
	Requests int
	AtOnce   int            // the most that were being answered at any time
	InARow   int            // the most that came one after the answer to another
	Kinds    map[string]int // such as "PUT narinfo": how many of the requests
}

// startProxy stands before the server at target, such as http://127.0.0.1:1234.
func startProxy(target string, delay time.Duration) (*proxy, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{url: "http://" + listener.Addr().String(), delay: delay}
	p.next = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host // Out.Host stays: it is signed
			r.Out.Header.Del("Expect")                            // is answered by us
		},
		Transport: &http.Transport{
			DisableCompression:  true,
			MaxIdleConnsPerHost: 1024,
			ReadBufferSize:      bufferSize,
			WriteBufferSize:     bufferSize,
		},
		BufferPool: &buffers{sync.Pool{New: func() any { return new([bufferSize]byte) }}},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { // mostly of clients that went away
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	p.http = &http.Server{Handler: p}
	go p.http.Serve(listener)
	return p, nil
}

func (p *proxy) stop() { p.http.Close() }

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mutex.Lock()
	p.Requests++
	p.now++
	p.AtOnce = max(p.AtOnce, p.now)
	row := p.InARow + 1
	if p.Kinds == nil {
		p.Kinds = map[string]int{}
	}
	p.Kinds[kind(r)]++
	p.mutex.Unlock()
	defer func() {
		p.mutex.Lock()
		p.now--
		p.mutex.Unlock()
	}()
	time.Sleep(p.delay)
	p.mutex.Lock()
	p.InARow = max(p.InARow, row) // before the answer, to which the next one may be due
	p.mutex.Unlock()
	p.next.ServeHTTP(w, r)
}

// count returns what has passed since it was called last.
func (p *proxy) count() traffic {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	passed := p.traffic
	p.traffic = traffic{AtOnce: p.now}
	passed.Kinds = maps.Clone(passed.Kinds)
	return passed
}

// kind says what a request is about.
func kind(r *http.Request) string {
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/") // after the bucket
	what, _, _ := strings.Cut(key, "/")
	if path.Ext(key) == ".narinfo" {
		what = "narinfo"
	}
	for _, step := range []string{"uploads", "partNumber", "uploadId", "list-type"} {
		if r.URL.Query().Has(step) {
			what += "?" + step
			break
		}
	}
	return r.Method + " " + what
}

// bufferSize is large, so that bodies take few system calls.
const bufferSize = 256 << 10

// buffers implements httputil.BufferPool.
type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte    { return b.pool.Get().(*[bufferSize]byte)[:] }
func (b *buffers) Put(buf []byte) { b.pool.Put((*[bufferSize]byte)(buf)) }
