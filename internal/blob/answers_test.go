package blob_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
)

// hasty is DefaultPatience on a day of a second or two.
var hasty = blob.Patience{
	Retry:  retry.Policy{First: time.Millisecond, Longest: 50 * time.Millisecond, Budget: 300 * time.Millisecond},
	Stall:  300 * time.Millisecond,
	Least:  4 << 10,
	Answer: 300 * time.Millisecond,
}

// speak starts a server that says the same, again and again with a pause, to
// whoever asks for something, and counts connections.
func speak(t *testing.T, first, again string, pause time.Duration) (url string, connections *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	connections = new(atomic.Int64)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			go func() {
				defer conn.Close()
				requests := bufio.NewReader(conn)
				if _, err := http.ReadRequest(requests); err != nil {
					return
				}
				_, err := io.WriteString(conn, first)
				for err == nil && again != "" {
					_, err = io.WriteString(conn, again)
					time.Sleep(pause)
				}
				conn.(*net.TCPConn).CloseWrite() // the end, and no reset, which would be worth another try
				io.Copy(io.Discard, requests)
			}()
		}
	}()
	return "http://" + listener.Addr().String(), connections
}

const dripping = 5 * time.Millisecond

// Nobody is held by a server that doesn't want to end, nor asks again one that
// can't get better.
func TestHostileServers(t *testing.T) {
	get := func(ctx context.Context, s blob.Store) error {
		_, _, err := blob.ReadAll(ctx, s, "object", 1<<20, blob.GetOptions{})
		return err
	}
	put := func(ctx context.Context, s blob.Store) error {
		_, err := s.Put(ctx, "object", strings.NewReader("x"), blob.PutOptions{})
		return err
	}
	list := func(ctx context.Context, s blob.Store) (err error) {
		for _, err = range s.List(ctx, "") {
		}
		return err
	}
	const ok, sick = "HTTP/1.1 200 OK\r\n", "HTTP/1.1 500 Sick\r\n"
	redirect := func(to string) string { return "HTTP/1.1 302 Found\r\nLocation: " + to + "\r\n\r\n" }
	for _, test := range []struct {
		name         string
		first, again string
		pause        time.Duration
		s3           bool
		do           func(context.Context, blob.Store) error
		want         string // in the error
		once         bool   // it is asked once: another attempt doesn't help, or its time is over
	}{
		{"redirects to a file", redirect("file:///etc/passwd"), "", 0, false, get, `redirected to a "file" URL`, true},
		{"redirects to no URL", redirect("http://[s1gnature"), "", 0, false, get, "redirected to what is not a URL", true},
		{"speaks another protocol", "SSH-2.0-OpenSSH_9.9\r\n", "", 0, false, get, "malformed HTTP response", true},
		{"doesn't end its header", ok, strings.Repeat("X-Header: value\r\n", 4096), 0, false, get, "response headers exceeded", true},
		{"doesn't end its header, slowly", ok, "X-Header: value\r\n", dripping, false, get, "timeout awaiting response headers", true},
		{"sends nothing that matters", ok + "ETag: \"x\"\r\nContent-Length: 100000\r\n\r\n", "x", dripping, false, get, "the server sends next to nothing", true},
		{"the same for a bucket", ok + "ETag: \"x\"\r\nContent-Length: 100000\r\n\r\n", "x", dripping, true, get, "the server sends next to nothing", true},
		{"doesn't end its excuse", sick + "\r\n", strings.Repeat("x", 1<<20), 0, true, get, "500", false},
		{"doesn't end its excuse, slowly", sick + "\r\n", "x", dripping, true, get, "500", true},
		{"doesn't end what it lists", ok + "\r\n<ListBucketResult>", strings.Repeat("<Contents/>", 1<<17), 0, true, list, "the server's answer doesn't end", true},
		{"doesn't end what it lists, slowly", ok + "\r\n<ListBucketResult>", "<Contents/>", dripping, true, list, "the server's answer doesn't end", true},
		{"doesn't end its thanks, slowly", ok + "ETag: \"x\"\r\n\r\n", "x", dripping, true, put, "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server, connections := speak(t, test.first, test.again, test.pause)
			u := parse(t, server)
			if test.s3 {
				u = s3test.CacheAt(server, "bucket")
			}
			store := openStore(t, u, blob.Config{Patience: hasty})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := test.do(ctx, store)
			if ctx.Err() != nil {
				t.Errorf("it was held until it was stopped: %v", err)
			}
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("the error is %v, want one about %q", err, test.want)
			case err != nil && strings.Contains(err.Error(), "s1gnature"):
				t.Errorf("the error gives away where it was redirected to: %v", err)
			}
			if n := connections.Load(); test.once && n != 1 {
				t.Errorf("it was asked %d times", n)
			}
		})
	}
}

// A reader that takes its time is not the server's fault.
func TestSlowReader(t *testing.T) {
	const size = 8 << 10
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "8192")
		io.WriteString(w, strings.Repeat("x", size))
	}))
	defer server.Close()
	patience := hasty
	patience.Least = 1 << 20
	object, err := webStore(t, server, "", blob.Config{Patience: patience}).Get(t.Context(), "object", blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer object.Body.Close()
	for n := range 4 {
		time.Sleep(patience.Retry.Budget / 2)
		if _, err := io.ReadFull(object.Body, make([]byte, size/4)); err != nil {
			t.Fatalf("the %d. time: %v", n+1, err)
		}
	}
}
