package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
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
//
// It shares the machine with what is measured, so it does little: each
// connection of a client goes on as one of its own to the server, and the kernel
// moves bodies between the two (splice).
type proxy struct {
	url    string
	delay  time.Duration
	target string // host and port
	ctx    context.Context
	stop   context.CancelFunc

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
	p := &proxy{url: "http://" + listener.Addr().String(), delay: delay, target: to.Host}
	p.ctx, p.stop = context.WithCancel(context.Background())
	context.AfterFunc(p.ctx, func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	return p, nil
}

// serve passes what comes on a client's connection.
func (p *proxy) serve(clientConn net.Conn) {
	defer clientConn.Close()
	serverConn, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer serverConn.Close()
	defer context.AfterFunc(p.ctx, func() {
		clientConn.Close()
		serverConn.Close()
	})()
	client, server := newSide(clientConn), newSide(serverConn)
	requests, ended := make(chan asked, 1), make(chan struct{})
	go func() {
		p.passAnswers(server, client, requests)
		client.CloseWrite()
		close(ended)
	}()
	p.passRequests(client, server, requests, ended)
	// A server may answer before it has read all, and go. To close a connection on which something is unread would
	// take from the client the answer that is on its way.
	close(requests)
	io.Copy(io.Discard, client)
	serverConn.Close()
	<-ended
	for range requests {
		p.answered()
	}
}

// asked is a request that has no answer yet.
type asked struct {
	*http.Request
	row int // how many it is in a row
}

// passRequests passes requests, each when it was counted and delayed.
func (p *proxy) passRequests(client, server side, requests chan<- asked, ended <-chan struct{}) {
	for {
		request, err := http.ReadRequest(client.buffered)
		if err != nil {
			return
		}
		row := p.arrived(request)
		time.Sleep(p.delay)
		select {
		case requests <- asked{request, row}:
		case <-ended:
			p.answered()
			return
		}
		if request.Header.Get("Expect") != "" { // is answered by us
			request.Header.Del("Expect")
			if _, err := io.WriteString(client, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
				return
			}
		}
		request.Header.Set("Host", request.Host) // as it came: it is signed
		m := message{request.Method + " " + request.RequestURI + " " + request.Proto, request.Header, request.ContentLength, request.TransferEncoding != nil, request.Body}
		if m.pass(client, server, func() {}) != nil {
			return
		}
	}
}

// passAnswers passes the answers to the requests that were asked.
func (p *proxy) passAnswers(server, client side, requests <-chan asked) {
	for {
		if _, err := server.buffered.Peek(1); err != nil {
			return
		}
		request, ok := <-requests
		if !ok {
			return
		}
		response, err := http.ReadResponse(server.buffered, request.Request)
		if err != nil {
			p.answered()
			return
		}
		p.answers(request.row)
		m := message{response.Proto + " " + response.Status, response.Header, response.ContentLength, response.TransferEncoding != nil, response.Body}
		switch {
		case response.Body == http.NoBody:
			m.length, m.chunked = 0, false // whatever an answer to HEAD says
		case m.length < 0 && !m.chunked:
			m.length = math.MaxInt64 // all there is
		}
		if response.Close {
			m.header.Set("Connection", "close")
		}
		if m.pass(server, client, p.answered) != nil || response.Close {
			return
		}
	}
}

// arrived counts a request, and returns how many it is in a row: one more than
// any that an answer has begun to before.
func (p *proxy) arrived(r *http.Request) int {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.Requests++
	p.now++
	p.AtOnce = max(p.AtOnce, p.now)
	if p.Kinds == nil {
		p.Kinds = map[string]int{}
	}
	p.Kinds[kind(r)]++
	return p.InARow + 1
}

// answers counts that an answer is about to begin, to which the next request may
// be due.
func (p *proxy) answers(row int) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.InARow = max(p.InARow, row)
}

// answered counts that a request isn't being answered any more.
func (p *proxy) answered() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.now--
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

// A side is a connection, and what was read from it to find where a message ends.
type side struct {
	*net.TCPConn
	buffered *bufio.Reader
}

func newSide(conn net.Conn) side { return side{conn.(*net.TCPConn), bufio.NewReader(conn)} }

// A message is a request or an answer whose head was read.
type message struct {
	start   string // its first line
	header  http.Header
	length  int64 // of the body, in bytes
	chunked bool  // instead of a length
	body    io.Reader
}

// pass passes a message on, to its end, and calls whole when it has all of it,
// if possible before the receiver has it.
func (m message) pass(from, to side, whole func()) error {
	var first bytes.Buffer
	fmt.Fprintf(&first, "%s\r\n", m.start)
	m.header.Write(&first)
	if m.chunked {
		io.WriteString(&first, "Transfer-Encoding: chunked\r\n\r\n")
		defer whole()
		if _, err := to.Write(first.Bytes()); err != nil {
			return err
		}
		chunks := httputil.NewChunkedWriter(to)
		if _, err := io.Copy(chunks, m.body); err != nil {
			return err
		}
		chunks.Close()
		_, err := io.WriteString(to, "\r\n")
		return err
	}
	io.WriteString(&first, "\r\n")
	came := min(m.length, int64(from.buffered.Buffered()))
	io.CopyN(&first, from.buffered, came)
	if came == m.length {
		whole()
		_, err := to.Write(first.Bytes())
		return err
	}
	defer whole()
	if _, err := to.Write(first.Bytes()); err != nil {
		return err
	}
	_, err := io.CopyN(to.TCPConn, from.TCPConn, m.length-came) // of these types, so that it is left to the kernel
	return err
}
