package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The proxy delays, counts and passes on.
func TestProxy(t *testing.T) {
	const clients = 5
	var arrived sync.WaitGroup
	arrived.Add(clients)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			arrived.Done()
			arrived.Wait() // all at once
		}
		io.WriteString(w, r.Host+" ")
		io.Copy(w, r.Body)
	}))
	defer target.Close()
	const delay = 30 * time.Millisecond
	p, err := startProxy(target.URL, delay)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()

	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			response, err := http.Get(fmt.Sprintf("%s/bucket/%d.narinfo", p.url, i))
			if err != nil {
				t.Error(err)
				return
			}
			response.Body.Close()
		})
	}
	group.Wait()
	start := time.Now()
	response, err := http.Post(p.url+"/bucket/nar/x?uploads", "", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if want := strings.TrimPrefix(p.url, "http://") + " body"; string(body) != want {
		t.Errorf("want the host that was asked for and the body, %q, got %q", want, body)
	}
	if took := time.Since(start); took < delay {
		t.Errorf("it took %v, less than the delay", took)
	}
	want := traffic{clients + 1, clients, 2, map[string]int{"GET narinfo": clients, "POST nar?uploads": 1}}
	if diff := cmp.Diff(want, p.count()); diff != "" {
		t.Errorf("what has passed (-want +got):\n%s", diff)
	}
	if got := p.count(); got.Requests != 0 {
		t.Errorf("it counts again what it has counted: %+v", got)
	}
}

// Whatever shape a message has, client and server see of it what they see without
// the proxy; and a connection that served is used again.
func TestProxyMessages(t *testing.T) {
	large := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{}).Read(large)
	var connections atomic.Int32
	seen := make(chan string, 1) // of a request
	target := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		expects := r.Header.Get("Expect")
		if expects != "" && r.Host == "direct" {
			r.Header.Del("Expect") // which the proxy answers
		} else if expects != "" {
			t.Errorf("the server is expected to %s", expects)
		}
		if r.URL.Path == "/refused" {
			seen <- ""
			w.Header().Set("Connection", "close")
			http.Error(w, "no", http.StatusForbidden) // nothing is read
			return
		}
		body, err := io.ReadAll(r.Body)
		seen <- fmt.Sprintln(r.Method, r.RequestURI, r.Proto, r.Header, r.ContentLength, r.TransferEncoding, len(body), bytes.Equal(body, large), err)
		w.Header().Set("ETag", `"1"`)
		switch r.URL.Path {
		case "/small":
			io.WriteString(w, "small")
		case "/large":
			w.Header().Set("Content-Length", strconv.Itoa(len(large)))
			if r.Method != http.MethodHead {
				w.Write(large)
			}
		case "/chunked":
			io.WriteString(w, "one")
			w.(http.Flusher).Flush()
			w.Write(large)
		case "/until-closed", "/lost":
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if r.URL.Path == "/until-closed" {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"+strings.Repeat("all ", 10_000))
			} else {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n"+strings.Repeat("half", 2_500))
			}
		case "/no-content":
			w.WriteHeader(http.StatusNoContent)
		case "/not-modified":
			w.WriteHeader(http.StatusNotModified)
		}
	}))
	target.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	target.Start()
	defer target.Close()
	p, err := startProxy(target.URL, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, ExpectContinueTimeout: time.Minute}}
	defer client.CloseIdleConnections()

	for _, message := range []struct {
		name, method, path string
		body               []byte
		chunked            bool // the body
		header             http.Header
		closes             bool // the connection
	}{
		{name: "nothing sent, little received", method: "GET", path: "/small?versionId=a%2Fb&x"},
		{name: "little sent", method: "PUT", path: "/small", body: []byte("small")},
		{name: "much sent", method: "PUT", path: "/small%20and", body: large},
		{name: "much sent, when it is asked for", method: "PUT", path: "/small", body: large, header: http.Header{"Expect": {"100-continue"}}},
		{name: "sent in chunks", method: "POST", path: "/small", body: large, chunked: true},
		{name: "much both ways", method: "POST", path: "/large", body: large},
		{name: "much received", method: "GET", path: "/large"},
		{name: "received in chunks", method: "GET", path: "/chunked"},
		{name: "a head only", method: "HEAD", path: "/large"},
		{name: "no content", method: "DELETE", path: "/no-content"},
		{name: "not modified", method: "GET", path: "/not-modified", header: http.Header{"If-None-Match": {`"1"`}, "X-Twice": {"1", "2"}}},
		{name: "received until the end", method: "GET", path: "/until-closed", closes: true},
		{name: "half received", method: "GET", path: "/lost", closes: true},
		{name: "refused before it is read", method: "PUT", path: "/refused", body: large, chunked: true, closes: true},
		{name: "refused, of known length", method: "PUT", path: "/refused", body: large, closes: true},
	} {
		t.Run(message.name, func(t *testing.T) {
			do := func(url, host string) string {
				request, err := http.NewRequest(message.method, url+message.path, bytes.NewReader(message.body))
				if err != nil {
					t.Fatal(err)
				}
				request.Host = host
				if message.chunked {
					request.ContentLength = -1
				}
				for name, values := range message.header {
					request.Header[name] = values
				}
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				response.Header.Del("Date")
				return <-seen + fmt.Sprintln(response.Proto, response.Status, response.Header, response.ContentLength, response.TransferEncoding, len(body), bytes.Equal(body, large), response.Close, err)
			}
			want := do(target.URL, "direct")
			before := connections.Load()
			for range 2 {
				if diff := cmp.Diff(want, do(p.url, "proxied")); diff != "" {
					t.Errorf("(-direct +proxied)\n%s", diff)
				}
			}
			most := int32(1) // the first
			if message.closes {
				most = 2
			}
			if made := connections.Load() - before; made > most {
				t.Errorf("two requests have made %d connections to the server, want %d at most", made, most)
			}
		})
	}
	deadline := time.Now().Add(time.Minute)
	for p.count().AtOnce > 0 {
		if time.Now().After(deadline) {
			t.Fatal("a request is being answered still")
		}
		time.Sleep(time.Millisecond)
	}
}

// The answer of a server that goes away without reading the request reaches a
// client that looks for it only when it has sent all.
func TestProxyRefusal(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	const refusal = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
	go func() {
		conn, err := target.Accept()
		if err == nil {
			conn.Read(make([]byte, 1000))
			io.WriteString(conn, refusal)
			conn.Close()
		}
	}()
	p, err := startProxy("http://"+target.Addr().String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const size = 30 << 20
	fmt.Fprintf(conn, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(conn); err != nil || len(got) != len(refusal) {
		t.Errorf("the answer is %q (%v)", got, err)
	}
}

// A connection that the server closes when nothing is asked for is closed to the
// client, too, which makes another.
func TestProxyIdle(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer target.Close()
	p, err := startProxy(target.URL, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
	if n, err := conn.Read(make([]byte, 1000)); err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
	target.CloseClientConnections()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read %d bytes: %v, want the end", n, err)
	}

	p.stop()
	if conn, err := net.Dial("tcp", strings.TrimPrefix(p.url, "http://")); err == nil {
		conn.Close()
		t.Error("a proxy that was stopped takes connections")
	}
}
