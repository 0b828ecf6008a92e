package resource

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// TestNetworkStories runs the scripts that have a real S3 server, and others
// that are out of order.
func TestNetworkStories(t *testing.T) {
	sample, nix, server := nixtest.Sample(t), nixtest.Current(t), s3test.Versitygw(t)
	runStories(t, "testdata/network", func(t testing.TB, env *testscript.Env) error {
		bucket, open, readable := server.Bucket(t), server.Bucket(t), server.Bucket(t)
		user := server.User(t, "nobody-in-"+bucket)
		for name, value := range map[string]string{
			"S3":          server.URL,
			"BUCKET":      bucket,
			"OPEN_BUCKET": open,
			"READ_BUCKET": readable,
			"OWNER":       server.AccessKeyID,
			"OWNERS_KEY":  server.SecretAccessKey,
			"NOBODY":      user.AccessKeyID,
			"NOBODYS_KEY": user.SecretAccessKey,
		} {
			env.Setenv(name, value)
		}
		for bucket, actions := range map[string]string{open: `"s3:*"`, readable: `["s3:GetObject", "s3:ListBucket"]`} {
			server.SetPolicy(t, bucket, `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": `+actions+`,
				"Resource": ["arn:aws:s3:::`+bucket+`", "arn:aws:s3:::`+bucket+`/*"]}]}`)
		}
		return errors.Join(setUpNix(t, env, nix, sample), setUpStory(t, env))
	})
}

// cmdAnswers starts a server that answers every request with an error of S3.
//
//	answers VARIABLE STATUS CODE [HEADER VALUE]
func cmdAnswers(ts *testscript.TestScript, neg bool, args []string) {
	status, err := strconv.Atoi(args[1])
	ts.Check(err)
	serve(ts, args[0], httptest.NewServer, func(w http.ResponseWriter, r *http.Request) {
		if len(args) > 3 {
			w.Header().Set(args[3], args[4])
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>a message</Message></Error>", args[2])
	})
}

// cmdForgets makes $SERVER one that hands every request to $S3 without its
// condition.
//
//	forgets
func cmdForgets(ts *testscript.TestScript, neg bool, args []string) {
	behind, err := url.Parse(ts.Getenv("S3"))
	ts.Check(err)
	proxy := httputil.NewSingleHostReverseProxy(behind)
	serve(ts, "SERVER", httptest.NewServer, func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("If-Match")
		r.Header.Del("If-None-Match")
		proxy.ServeHTTP(w, r)
	})
}

// cmdServes serves $WORK/cache by https at $SERVER, with a certificate of an
// unknown authority, $CERTIFICATE as a string of JSON.
//
//	serves
func cmdServes(ts *testscript.TestScript, neg bool, args []string) {
	server := serve(ts, "SERVER", newQuietTLSServer, http.FileServer(http.Dir(ts.MkAbs("cache"))).ServeHTTP)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	text, err := json.Marshal(string(certificate))
	ts.Check(err)
	ts.Setenv("CERTIFICATE", string(text))
	ts.Check(expandAll(ts.MkAbs("."), ts.Getenv))
}

func newQuietTLSServer(handler http.Handler) *httptest.Server {
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients who don't trust it
	server.StartTLS()
	return server
}

// serve starts a server whose URL is a variable, also in the script's files.
func serve(ts *testscript.TestScript, variable string, start func(http.Handler) *httptest.Server, handler http.HandlerFunc) *httptest.Server {
	server := start(handler)
	ts.Defer(server.Close)
	ts.Setenv(variable, server.URL)
	ts.Check(expandAll(ts.MkAbs("."), ts.Getenv))
	return server
}
