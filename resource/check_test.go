package resource

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

func TestVersionsSince(t *testing.T) {
	path := func(n uint64) nix.StorePath {
		p, err := nix.ParseBaseName(fmt.Sprintf("00bgd045z0d4icpbc2yyz4gx48ak44la-system-%d", n))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	history := new(pointer.History)
	for _, n := range []uint64{9, 8, 6, 5} { // 7 is not there
		history.Generations = append(history.Generations, pointer.Generation{Number: n, Path: path(n)})
	}
	for _, test := range []struct {
		name  string
		given *Version
		want  []uint64
	}{
		{"none", nil, []uint64{9}},
		{"the newest", &Version{9, path(9)}, []uint64{9}},
		{"an older one", &Version{6, path(6)}, []uint64{6, 8, 9}},
		{"the oldest", &Version{5, path(5)}, []uint64{5, 6, 8, 9}},
		{"a generation alone", &Version{Generation: 8}, []uint64{8, 9}},
		{"older than the history", &Version{2, path(2)}, []uint64{5, 6, 8, 9}},
		{"newer than the history", &Version{10, path(10)}, []uint64{9}},
		{"another path", &Version{8, path(1)}, []uint64{9}},
		{"missing in between", &Version{7, path(7)}, []uint64{9}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var want []Version
			for _, n := range test.want {
				want = append(want, Version{n, path(n)})
			}
			if diff := cmp.Diff(want, versionsSince(test.given, history), cmp.Comparer(func(a, b nix.StorePath) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	if got := versionsSince(&Version{3, path(3)}, new(pointer.History)); got == nil || len(got) != 0 {
		t.Errorf("of an empty history: got %#v, want an empty list, not null", got)
	}
}

// A check ends within a minute, whatever the server does.
func TestCheckGivesUp(t *testing.T) {
	defer func(patience time.Duration) { checkPatience = patience }(checkPatience)
	checkPatience = 200 * time.Millisecond
	done := make(chan struct{})
	for name, serve := range map[string]http.HandlerFunc{
		"never answers": func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-done:
			}
		},
		"always fails": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		"drips": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write([]byte(" "))
				w.(http.Flusher).Flush()
				time.Sleep(time.Millisecond)
			}
		},
	} {
		server := httptest.NewServer(serve)
		var log strings.Builder
		request := `{"source": {"cache": "` + server.URL + `", "pointer": "web-1", "require_sigs": false}}`
		_, err := Check(t.Context(), Step{Stdin: strings.NewReader(request), Getenv: os.Getenv, Console: console.New(&log, os.Getenv, nil)})
		if err == nil || !strings.Contains(err.Error(), "has not answered within 200ms") {
			t.Errorf("a server that %s: %v", name, err)
		}
		server.CloseClientConnections()
	}
	close(done)
}
