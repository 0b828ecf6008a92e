package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A place is where a cache lies. What its owner looks up there, he looks up
// without the code under test.
type place interface {
	// source has what a source says to write there, its cache included.
	source() map[string]any

	// substituters are the URLs by which a Nix reads the cache.
	substituters(*nixtest.Nix) []string

	// list returns the keys that begin with prefix, which is "" or ends in a
	// slash, and for each something that changes when the object does.
	list(prefix string) (map[string]string, error)

	// read returns an error that is fs.ErrNotExist if there is no such object.
	read(key string) ([]byte, error)
}

// inEachPlace runs a test on a directory and on a bucket.
func inEachPlace(t *testing.T, test func(*testing.T, place)) {
	t.Parallel()
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		test(t, directory(t.TempDir()))
	})
	t.Run("bucket", func(t *testing.T) {
		t.Parallel()
		test(t, newBucket(t, s3test.Versitygw(t)))
	})
}

type directory string

func (d directory) source() map[string]any { return map[string]any{"cache": "file://" + string(d)} }

func (d directory) substituters(*nixtest.Nix) []string { return []string{"file://" + string(d)} }

func (d directory) list(prefix string) (map[string]string, error) {
	objects := map[string]string{}
	err := filepath.WalkDir(filepath.Join(string(d), prefix), func(name string, entry fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil && !entry.IsDir() {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // not yet, or not any more
		}
		if info != nil {
			key, _ := filepath.Rel(string(d), name)
			objects[key] = info.ModTime().String()
		}
		return err
	})
	return objects, err
}

func (d directory) read(key string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(d), key))
}

// A bucket may be read by everybody, since the stock Nixes that we have sign no
// requests.
type bucket struct {
	server   *s3test.Server
	name     string
	endpoint string // by which the programs reach the server
}

func newBucket(t testing.TB, server *s3test.Server) bucket {
	t.Helper()
	b := bucket{server, server.Bucket(t), server.URL}
	b.allowEverybody(t, "s3:GetObject")
	return b
}

func (b bucket) allowEverybody(t testing.TB, actions string) {
	t.Helper()
	b.server.SetPolicy(t, b.name, fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Principal": "*", "Action": %q, "Resource": ["arn:aws:s3:::%s", "arn:aws:s3:::%[2]s/*"]}
	]}`, actions, b.name))
}

func (b bucket) source() map[string]any {
	return map[string]any{
		"cache":             s3test.CacheAt(b.endpoint, b.name).String(),
		"access_key_id":     b.server.AccessKeyID,
		"secret_access_key": b.server.SecretAccessKey,
	}
}

// s3URL is the bucket's URL for Nix, which reaches the server itself.
func (b bucket) s3URL() string {
	return "s3://" + b.name + "?endpoint=" + url.QueryEscape(b.server.URL)
}

func (b bucket) substituters(n *nixtest.Nix) []string {
	urls := []string{b.server.URL + "/" + b.name}
	if !strings.HasPrefix(n.Version, "2.8.") { // Debian built that one without S3
		urls = append(urls, b.s3URL())
	}
	return urls
}

func (b bucket) list(prefix string) (map[string]string, error) {
	objects := map[string]string{}
	pages := s3.NewListObjectsV2Paginator(b.server.Client(), &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(context.Background())
		if err != nil {
			return nil, err
		}
		for _, object := range page.Contents {
			objects[*object.Key] = *object.ETag
		}
	}
	return objects, nil
}

func (b bucket) read(key string) ([]byte, error) {
	object, err := b.server.Client().GetObject(context.Background(), &s3.GetObjectInput{Bucket: &b.name, Key: &key})
	var missing *types.NoSuchKey
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer object.Body.Close()
	return io.ReadAll(object.Body)
}

// matching are the objects of a place whose keys match the pattern, as
// path.Match has it, and has wildcards after the last slash only.
func matching(p place, pattern string) (map[string]string, error) {
	objects, err := p.list(pattern[:strings.LastIndex(pattern, "/")+1])
	for key := range objects {
		if ok, _ := path.Match(pattern, key); !ok {
			delete(objects, key)
		}
	}
	return objects, err
}
