package blob_test

import (
	"net/url"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/blobtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
)

func openStore(t *testing.T, u *url.URL, config blob.Config) blob.Store {
	t.Helper()
	store, err := blob.Open(t.Context(), u, config)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestS3(t *testing.T) {
	testS3(t, s3test.Versitygw(t))
}

func TestS3OnMinIO(t *testing.T) {
	testS3(t, s3test.MinIO(t))
}

func testS3(t *testing.T, server *s3test.Server) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		return openStore(t, server.Cache(server.Bucket(t)), server.Config())
	})
}
