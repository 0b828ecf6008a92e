package blob_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
)

// TestPermissions gives each party its policy from docs/permissions.md and has
// it try everything.
func TestPermissions(t *testing.T) { testPermissions(t, s3test.Versitygw(t)) }

func TestPermissionsOnMinIO(t *testing.T) { testPermissions(t, s3test.MinIO(t)) }

func testPermissions(t *testing.T, server *s3test.Server) {
	bucket, policies := server.Bucket(t), s3test.Policies(t)
	parties := server.Parties(t, bucket, policies)
	keys := []string{
		"nix-cache-info", "01342ra5n2bbf0k9nkgwy57mwbvsxqmg.narinfo", "nar/file.nar.zst", "closures/01342ra5n2bbf0k9nkgwy57mwbvsxqmg",
		"pointers/web-1", "pointers/web-1.json", "pointers/web-1.d/12.json", "pointers/.conditional-writes", "changes/web-1/12.json",
		"leases/random", "log/some.drv", "reports/web-1/host-1.json", "reports/web-1/host-2.json",
	}
	everything := func(string) bool { return true }
	nothing := func(string) bool { return false }
	for party, may := range map[string]struct{ write, delete func(key string) bool }{
		"builder": {
			write:  func(key string) bool { return !strings.HasPrefix(key, "reports/") },
			delete: func(key string) bool { return strings.HasPrefix(key, "leases/") },
		},
		"promoter": {
			write: func(key string) bool {
				return strings.HasPrefix(key, "pointers/") || strings.HasPrefix(key, "changes/") || strings.HasPrefix(key, "leases/")
			},
			delete: func(key string) bool { return strings.HasPrefix(key, "leases/") },
		},
		"reader": {write: nothing, delete: nothing},
		"host": {
			write:  func(key string) bool { return key == "reports/web-1/host-1.json" },
			delete: nothing,
		},
	} {
		t.Run(party, func(t *testing.T) {
			store, owner := openStore(t, server.Cache(bucket), parties[party]), openStore(t, server.Cache(bucket), server.Config())

			_, err := store.Stat(t.Context(), "missing")
			if !errors.Is(err, blob.ErrNotExist) {
				t.Errorf("looking for what isn't there: %v", err)
			}
			wantAllowed(t, "listing", everything, "all", func() error {
				for _, err := range store.List(t.Context(), "pointers/") {
					return err
				}
				return nil
			}())
			for _, key := range keys {
				info, err := owner.Put(t.Context(), key, strings.NewReader("old"), blob.PutOptions{})
				if err != nil {
					t.Fatal(err)
				}
				_, _, err = blob.ReadAll(t.Context(), store, key, 10, blob.GetOptions{})
				wantAllowed(t, "reading", everything, key, err)
				_, err = store.Put(t.Context(), key, strings.NewReader("new"), blob.PutOptions{})
				wantAllowed(t, "writing", may.write, key, err)
				if may.write("pointers/.conditional-writes") { // which has to be possible before
					info, err = owner.Stat(t.Context(), key)
					if err != nil {
						t.Fatal(err)
					}
					_, err = store.Put(t.Context(), key, strings.NewReader("newer"), blob.PutOptions{IfMatch: info.ETag})
					wantAllowed(t, "replacing", may.write, key, err)
				}
				wantAllowed(t, "deleting", may.delete, key, store.Delete(t.Context(), key))
			}
			_, err = store.Put(t.Context(), "nar/large", io.MultiReader(bytes.NewReader(largeObject), iotest.ErrReader(io.ErrNoProgress)), blob.PutOptions{})
			if may.write("nar/large") {
				if !errors.Is(err, io.ErrNoProgress) {
					t.Errorf("the error is %v", err)
				}
				if uploads := unfinishedUploads(t, server, bucket); uploads != 0 {
					t.Errorf("%d uploads are left", uploads)
				}
			} else {
				wantAllowed(t, "writing", may.write, "nar/large", err)
			}
		})
	}
	if diff := cmp.Diff(4, len(policies)); diff != "" {
		t.Errorf("parties in docs/permissions.md (-want +got)\n%s", diff)
	}
}

func wantAllowed(t *testing.T, doing string, allowed func(key string) bool, key string, err error) {
	t.Helper()
	if allowed(key) && err != nil {
		t.Errorf("%s %s: %v", doing, key, err)
	}
	if !allowed(key) && !errors.Is(err, blob.ErrPermission) {
		t.Errorf("%s %s is not forbidden: %v", doing, key, err)
	}
}
