package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sys/unix"
)

// The S3 servers, by the names of what ci/servers builds.
const (
	versitygw = "versitygw"
	minio     = "minio"
)

// A server is a running S3 server with one empty bucket, which everybody may
// read and write: the Nix that Debian builds can't sign requests. Ours does.
type server struct {
	url       string
	accessKey string
	secretKey string
	dir       string // all that it has
	cmd       *exec.Cmd
	ended     chan struct{}
	output    bytes.Buffer
}

const bucket = "nix-cache"

// startServer starts a server, built by ci/servers, that keeps its objects
// below dir, which it makes.
func startServer(ctx context.Context, binary, dir string) (*server, error) {
	objects, config := filepath.Join(dir, "objects"), filepath.Join(dir, "config")
	if err := errors.Join(os.MkdirAll(objects, 0o755), os.MkdirAll(config, 0o755)); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &server{url: "http://" + address, accessKey: "key" + rand.Text(), secretKey: "secret" + rand.Text(), dir: dir, ended: make(chan struct{})}
	switch filepath.Base(binary) {
	case minio:
		s.cmd = exec.Command(binary, "server", "--quiet", "--config-dir", config, "--address", address, objects)
		s.cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+s.accessKey, "MINIO_ROOT_PASSWORD="+s.secretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
	default:
		s.cmd = exec.Command(binary, "--quiet", "--keep-alive", "--port", address, "--iam-dir", config, "posix", objects)
		if unix.Setxattr(objects, "user.test", nil, 0) != nil { // as in a tmpfs before Linux 6.6
			s.cmd.Args = append(s.cmd.Args[:len(s.cmd.Args)-1], "--sidecar", config, objects)
		}
		s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+s.accessKey, "ROOT_SECRET_ACCESS_KEY="+s.secretKey)
	}
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.cmd.Wait()
		close(s.ended)
	}()
	err = s.waitUntilReady(ctx)
	if err == nil {
		err = s.createBucket(ctx)
	}
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("starting %s: %w\n%s", filepath.Base(binary), err, &s.output)
	}
	return s, nil
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func (s *server) waitUntilReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.ended:
			return errors.New("it has ended")
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if response, err := http.Get(s.url + "/"); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusForbidden { // nobody in particular may list the buckets
				return nil
			}
		}
	}
}

func (s *server) createBucket(ctx context.Context) error {
	client := s.client()
	if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		return err
	}
	_, err := client.PutBucketPolicy(ctx, &s3.PutBucketPolicyInput{Bucket: aws.String(bucket), Policy: aws.String(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Principal": "*", "Action": ["s3:ListBucket"], "Resource": "arn:aws:s3:::` + bucket + `"},
		{"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": "arn:aws:s3:::` + bucket + `/*"}]}`)})
	return err
}

func (s *server) client() *s3.Client {
	return s3.New(s3.Options{
		Region:       "us-east-1",
		BaseEndpoint: &s.url,
		UsePathStyle: true,
		Credentials:  credentials.NewStaticCredentialsProvider(s.accessKey, s.secretKey, ""),
	})
}

// stored is the size of all objects, in bytes.
func (s *server) stored(ctx context.Context) (size int64, err error) {
	pages := s3.NewListObjectsV2Paginator(s.client(), &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return 0, err
		}
		for _, object := range page.Contents {
			size += *object.Size
		}
	}
	return size, nil
}

// stop ends the server, removes all that it has, and returns the seconds of CPU
// that it took.
func (s *server) stop() float64 {
	s.cmd.Process.Kill()
	<-s.ended
	os.RemoveAll(s.dir)
	return (s.cmd.ProcessState.UserTime() + s.cmd.ProcessState.SystemTime()).Seconds()
}
