package e2e_test

import (
	"crypto/rand"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/faultproxy"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A web server that asks for a login or a token is read with them, through
// faults as well; and nobody gets to see them.
func TestWebServerWithLogin(t *testing.T) {
	t.Parallel()
	s := newStorm(t, s3test.Versitygw(t), nixtest.Current(t))
	v := must[put](t)(run[put](t, s, s.out(s.next(t)))).Version

	token, password := "token"+rand.Text(), "password"+rand.Text()
	behind, err := url.Parse(s.proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(behind)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, given, _ := r.BasicAuth(); given != password && r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.Header.Del("Authorization")
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)

	source := s.overHTTP()
	source["cache"] = front.URL + "/" + s.direct.name
	login := "machine 127.0.0.1 login web-1 password " + password + "\n"
	for name, words := range map[string]map[string]any{
		"token":          {"bearer_token": token},
		"login":          {"netrc": login},
		"nothing":        {},
		"a wrong token":  {"bearer_token": "token" + rand.Text()},
		"a wrong login":  {"netrc": strings.ReplaceAll(login, password, "password"+rand.Text())},
		"another's host": {"netrc": strings.ReplaceAll(login, "127.0.0.1", "example.org")},
	} {
		may := name == "token" || name == "login"
		maps.Copy(words, source)
		s.proxy.PlayOnEach(faultproxy.SlowDown)
		_, err := run[[]version](t, s, call("check", "", nil, map[string]any{"source": words, "version": nil}))
		if may != (err == nil) || !may && !strings.Contains(err.Error(), "401") {
			t.Errorf("check with %s: %v", name, err)
		}
		s.proxy.PlayOnEach(faultproxy.TruncatedAnswer)
		if err := s.fetch(t, words, v, "rootfs"); may != (err == nil) {
			t.Errorf("in with %s: %v", name, err)
		}
	}
}
