package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/nixos-closure/nixos-closure-resource/internal/compression"
)

// An S3 is a Store in a bucket of Amazon's S3, or of a server that speaks its
// protocol, below a prefix.
type S3 struct {
	client     *s3.Client
	location   s3Location
	config     Config
	anonymous  bool
	conditions conditions
	slots      chan struct{} // one for each part that is being uploaded beside another of its object
}

var _ remote = (*S3)(nil)

// openS3 returns the store at u. It makes no request.
func openS3(ctx context.Context, u *url.URL, config Config) (*S3, error) {
	location, err := parseS3(u, config)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(config, location.secure())
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Transport: transport,
		// A signature is for one place. What S3 says by a redirect is that the
		// region is wrong.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	credentials, err := s3Credentials(ctx, location, config, client)
	if err != nil {
		return nil, err
	}
	options := s3.Options{
		Region:                     location.region,
		UsePathStyle:               location.pathStyle,
		EndpointOptions:            s3.EndpointResolverOptions{DisableHTTPS: location.plain},
		Credentials:                credentials,
		HTTPClient:                 client,
		Retryer:                    aws.NopRetryer{},                           // package retry does it
		DisableClockSkewCorrection: true,                                       // a wrong clock spoils more than signatures
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, // see checksum
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired, // our readers verify hashes
		Logger:                     logging.Nop{},
	}
	if location.endpoint != "" {
		options.BaseEndpoint = &location.endpoint
	}
	_, anonymous := credentials.(aws.AnonymousCredentials)
	return &S3{
		client:    s3.New(options),
		location:  location,
		config:    config,
		anonymous: anonymous,
		slots:     make(chan struct{}, extraParts),
	}, nil
}

// Capabilities implements [Store].
func (s *S3) Capabilities() Capabilities {
	return Capabilities{Write: true, Conditional: !s.singleWriter(), List: true}
}

func (s *S3) singleWriter() bool {
	return s.config.ConditionalWrites != nil && !*s.config.ConditionalWrites
}

// String implements [Store].
func (s *S3) String() string {
	return strings.TrimSuffix("s3://"+s.location.bucket+"/"+s.location.prefix, "/")
}

// Location implements [Store].
func (s *S3) Location() Location { return Location{s.location.url(s.String())} }

// Get implements [Store].
func (s *S3) Get(ctx context.Context, key string, opts GetOptions) (*Object, error) {
	object, err := getRemote(ctx, s, s.config.Patience, key, opts)
	if err != nil {
		return nil, failed("reading", key, s, err)
	}
	return object, nil
}

func (s *S3) open(ctx context.Context, key string, offset int64, ifMatch, ifNoneMatch string) (Info, string, io.ReadCloser, error) {
	input := &s3.GetObjectInput{
		Bucket:      &s.location.bucket,
		Key:         s.objectKey(key),
		IfMatch:     optional(ifMatch),
		IfNoneMatch: optional(ifNoneMatch),
	}
	if offset > 0 {
		input.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	output, err := s.client.GetObject(ctx, input)
	if err != nil {
		return Info{}, "", nil, s.explain(err, "s3:GetObject", key)
	}
	size, rest, err := rangeOf(output.Body, offset, lengthOf(output.ContentLength), aws.ToString(output.ContentRange))
	if err != nil {
		return Info{}, "", nil, err
	}
	return Info{
		Key:      key,
		Size:     size,
		ETag:     aws.ToString(output.ETag),
		Modified: aws.ToTime(output.LastModified).UTC(),
	}, aws.ToString(output.ContentEncoding), rest, nil
}

// Stat implements [Store].
func (s *S3) Stat(ctx context.Context, key string) (Info, error) {
	info, err := statRemote(ctx, s, s.config.Patience.Retry, key)
	if err != nil {
		return Info{}, failed("looking up", key, s, err)
	}
	return info, nil
}

func (s *S3) stat(ctx context.Context, key string) (Info, error) {
	info, _, err := s.head(ctx, key)
	if status := statusOf(err); status/100 == 4 && status != http.StatusNotFound {
		// The answer to a HEAD can't say why. That to a GET can.
		if _, _, source, err := s.open(ctx, key, 0, "", ""); err != nil {
			return Info{}, err
		} else {
			source.Close()
		}
	}
	return info, err
}

// head describes an object and says which Put it was written by.
func (s *S3) head(ctx context.Context, key string) (info Info, writer string, err error) {
	output, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.location.bucket, Key: s.objectKey(key)})
	if err != nil {
		return Info{}, "", s.explain(err, "s3:GetObject", key)
	}
	info = Info{
		Key:      key,
		Size:     lengthOf(output.ContentLength),
		ETag:     aws.ToString(output.ETag),
		Modified: aws.ToTime(output.LastModified).UTC(),
	}
	if compression.IsEncoded(aws.ToString(output.ContentEncoding)) {
		info.Size = -1
	}
	return info, output.Metadata[writerMetadata], nil
}

// Delete implements [Store].
func (s *S3) Delete(ctx context.Context, key string) error {
	err := check(ctx, key)
	if err == nil {
		err = s.config.Patience.Retry.Do(ctx, func() error {
			_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.location.bucket, Key: s.objectKey(key)})
			return s.explain(err, "s3:DeleteObject", key)
		})
	}
	if err != nil && !errors.Is(err, ErrNotExist) {
		return failed("deleting", key, s, err)
	}
	return nil
}

// List implements [Store].
func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if !beginsKeys(prefix) {
			return
		}
		input := &s3.ListObjectsV2Input{Bucket: &s.location.bucket, Prefix: s.objectKey(prefix)}
		for {
			var page *s3.ListObjectsV2Output
			err := s.config.Patience.Retry.Do(ctx, func() (err error) {
				page, err = s.client.ListObjectsV2(ctx, input)
				return s.explain(err, "s3:ListBucket", prefix)
			})
			if err != nil {
				yield(Info{}, fmt.Errorf("listing %s/%s*: %w", s, prefix, err))
				return
			}
			for _, object := range page.Contents {
				key := strings.TrimPrefix(aws.ToString(object.Key), s.location.prefix)
				if !ValidKey(key) || key == conditionsKey {
					continue // what other tools take for a directory, or is the store's own
				}
				info := Info{
					Key:      key,
					Size:     lengthOf(object.Size),
					ETag:     aws.ToString(object.ETag),
					Modified: aws.ToTime(object.LastModified).UTC(),
				}
				if !yield(info, nil) {
					return
				}
			}
			if !aws.ToBool(page.IsTruncated) {
				return
			}
			input.ContinuationToken = page.NextContinuationToken
		}
	}
}

func (s *S3) objectKey(key string) *string { return aws.String(s.location.prefix + key) }

// optional is a parameter of a request that is left out if empty.
func optional(value string) *string {
	if value == "" {
		return nil
	}
	return &value
}

func lengthOf(length *int64) int64 {
	if length == nil {
		return -1
	}
	return *length
}
