package blob_test

import (
	"net/url"
	"path/filepath"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

func TestOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a cache?")
	for _, test := range []struct {
		url  string
		want string // the store's String, or none if Open fails
	}{
		{(&url.URL{Scheme: "file", Path: dir}).String(), (&url.URL{Scheme: "file", Path: dir}).String()},
		{"file:///srv/cache?compression=xz", "file:///srv/cache"},
		{"file://localhost/srv/cache/", "file:///srv/cache"},
		{"file://srv/cache", ""},
		{"file:", ""},
		{"/srv/cache", ""},
		{"ssh://cache", ""},
	} {
		t.Run(test.url, func(t *testing.T) {
			u, err := url.Parse(test.url)
			if err != nil {
				t.Fatal(err)
			}
			store, err := blob.Open(t.Context(), u, blob.Config{})
			if test.want == "" {
				if err == nil || len(hint.Of(err)) == 0 {
					t.Errorf("the error is %v, with the hints %q", err, hint.Of(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if store.String() != test.want {
				t.Errorf("it is %s, want %s", store, test.want)
			}
		})
	}
}
