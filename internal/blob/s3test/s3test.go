// Package s3test gives tests real S3 servers, each with directories, a port
// and credentials of its own.
//
// ci/servers/build puts them into .cache/servers. Where versitygw is missing,
// tests that ask for it are skipped, or fail if NIXOS_CLOSURE_TEST_REQUIRE is
// 1, as it is in `make test`. MinIO takes longer to build and to answer; tests
// that ask for it are skipped unless NIXOS_CLOSURE_TEST_MINIO is 1.
package s3test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

// A Server is a running S3 server.
type Server struct {
	URL             string // such as http://127.0.0.1:12345
	AccessKeyID     string
	SecretAccessKey string // may do everything
	name, binary    string
	buckets         atomic.Int64
}

// Versitygw starts a versitygw that keeps its objects as files. It is stopped
// when the test ends.
func Versitygw(t testing.TB) *Server {
	t.Helper()
	objects, users := t.TempDir(), t.TempDir()
	return start(t, "versitygw", func(s *Server, address string) *exec.Cmd {
		cmd := exec.Command(s.binary, "--quiet", "--keep-alive", "--port", address, "--iam-dir", users, "--iam-cache-disable", "posix", objects)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+s.AccessKeyID, "ROOT_SECRET_ACCESS_KEY="+s.SecretAccessKey)
		return cmd
	})
}

// MinIO starts a MinIO server.
func MinIO(t testing.TB) *Server {
	t.Helper()
	if os.Getenv("NIXOS_CLOSURE_TEST_MINIO") != "1" {
		t.Skip("NIXOS_CLOSURE_TEST_MINIO is not 1")
	}
	objects, config := t.TempDir(), t.TempDir()
	return start(t, "minio", func(s *Server, address string) *exec.Cmd {
		cmd := exec.Command(s.binary, "server", "--quiet", "--config-dir", config, "--address", address, objects)
		cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+s.AccessKeyID, "MINIO_ROOT_PASSWORD="+s.SecretAccessKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
		return cmd
	})
}

func start(t testing.TB, name string, command func(s *Server, address string) *exec.Cmd) *Server {
	t.Helper()
	binary, err := find(name)
	if err != nil {
		if os.Getenv("NIXOS_CLOSURE_TEST_REQUIRE") == "1" {
			t.Fatalf("%v: run ci/servers/build %s", err, name)
		}
		t.Skipf("%v: run ci/servers/build %s", err, name)
	}
	for attempt := 0; ; attempt++ {
		address := freeAddress(t)
		s := &Server{URL: "http://" + address, AccessKeyID: "key" + rand.Text(), SecretAccessKey: "secret" + rand.Text(), name: name, binary: binary}
		cmd := command(s, address)
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		// It ends with the thread that has started it, which therefore does nothing else: what is under test may have
		// its goroutines' threads end.
		started, ended := make(chan error, 1), make(chan struct{})
		go func() {
			runtime.LockOSThread()
			defer close(ended)
			err := cmd.Start()
			started <- err
			if err == nil {
				cmd.Wait()
			}
		}()
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		if s.waitUntilReady(ended) {
			t.Cleanup(func() {
				cmd.Process.Kill()
				<-ended
			})
			return s
		}
		cmd.Process.Kill()
		<-ended
		if attempt == 3 { // and not only because somebody else took the port
			t.Fatalf("%s doesn't start:\n%s", name, &output)
		}
	}
}

func find(name string) (string, error) {
	root, err := checkout()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(root, ".cache", "servers", name)
	_, err = os.Stat(binary)
	return binary, err
}

// checkout is the directory of this repository.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("the checkout of this repository: %w", os.ErrNotExist)
		}
		dir = filepath.Dir(dir)
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// waitUntilReady asks until the server answers as S3 does.
func (s *Server) waitUntilReady(ended <-chan struct{}) bool {
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return false
		case <-deadline:
			return false
		case <-tick.C:
		}
		response, err := http.Get(s.URL + "/")
		if err != nil {
			continue
		}
		response.Body.Close()
		if response.StatusCode == http.StatusForbidden { // anonymous may not list the buckets
			return true
		}
	}
}

// Client returns a client with the server's own credentials, for what a
// bucket's owner does.
func (s *Server) Client() *s3.Client {
	return s3.New(s3.Options{
		Region:       "us-east-1",
		BaseEndpoint: &s.URL,
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(s.AccessKeyID, s.SecretAccessKey, ""),
	})
}

// Bucket creates a bucket and returns its name.
func (s *Server) Bucket(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("bucket-%d", s.buckets.Add(1))
	if _, err := s.Client().CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
	return name
}

// Cache returns the URL, as in nix.conf, of a cache in a bucket ("name" or
// "name/prefix").
func (s *Server) Cache(bucket string) *url.URL { return CacheAt(s.URL, bucket) }

// CacheAt is Cache for those who reach the server by another URL.
func CacheAt(endpoint, bucket string) *url.URL {
	u, err := url.Parse("s3://" + bucket + "?endpoint=" + url.QueryEscape(endpoint))
	if err != nil {
		panic(err)
	}
	return u
}

// Config returns the server's own credentials.
func (s *Server) Config() blob.Config {
	return blob.Config{AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey}
}

// SetPolicy makes policy that of the bucket.
func (s *Server) SetPolicy(t testing.TB, bucket, policy string) {
	t.Helper()
	if _, err := s.Client().PutBucketPolicy(context.Background(), &s3.PutBucketPolicyInput{Bucket: &bucket, Policy: aws.String(policy)}); err != nil {
		t.Fatal(err)
	}
}

// User creates a user of a versitygw, who may do what policies permit, and
// returns its credentials. The access key is also what policies name it by.
func (s *Server) User(t testing.TB, name string) blob.Config {
	t.Helper()
	secret := "secret" + rand.Text()
	cmd := exec.Command(s.binary, "admin", "--endpoint-url", s.URL, "create-user", "--access", name, "--secret", secret, "--role", "user")
	cmd.Env = append(os.Environ(), "ADMIN_ACCESS_KEY_ID="+s.AccessKeyID, "ADMIN_SECRET_ACCESS_KEY="+s.SecretAccessKey)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("creating the user %s: %v\n%s", name, err, strings.TrimSpace(string(output)))
	}
	return blob.Config{AccessKeyID: name, SecretAccessKey: secret}
}
