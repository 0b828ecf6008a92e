package blob

import (
	"context"
	"fmt"
	"net/url"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// Config is what a store needs besides its URL. The names in JSON are those of
// the resource's source, which are those of Concourse's s3 resource.
type Config struct {
	AccessKeyID                 string   `json:"access_key_id"`
	SecretAccessKey             string   `json:"secret_access_key"`
	SessionToken                string   `json:"session_token"`
	AWSRoleARN                  string   `json:"aws_role_arn"`                    // a role to assume with the credentials above, or the chain's
	EnableAWSCredsProviderChain bool     `json:"enable_aws_creds_provider_chain"` // use what the SDK finds in environment, files and metadata services
	DisableSSL                  bool     `json:"disable_ssl"`                     // plain http to an S3 endpoint whose URL names no scheme
	SkipSSLVerification         bool     `json:"skip_ssl_verification"`
	CACerts                     []string `json:"ca_certs"`           // PEM, trusted in addition to the system's
	SkipS3Checksums             bool     `json:"skip_s3_checksums"`  // for stores that refuse the SDK's checksum headers
	ConditionalWrites           *bool    `json:"conditional_writes"` // false: there is only ever one writer; unset: find out whether the store can
}

// Open returns the store at a cache's URL as it stands in nix.conf. It makes
// no request. Parameters of the URL that don't concern a store are ignored.
func Open(ctx context.Context, u *url.URL, config Config) (Store, error) {
	switch u.Scheme {
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return nil, hint.With(fmt.Errorf("the URL file://%s%s names no directory", u.Host, u.Path), "write file:///path/to/cache, with three slashes")
		}
		return NewDirectory(u.Path), nil
	case "":
		return nil, hint.With(fmt.Errorf("%s is not a URL", u.Path), "write file:///path/to/cache for a directory")
	default:
		return nil, hint.With(fmt.Errorf("a cache can't be at a URL that begins with %s:", u.Scheme), "use s3://, https://, http:// or file://")
	}
}
