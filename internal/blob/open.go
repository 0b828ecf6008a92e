package blob

import (
	"context"
	"fmt"
	"net/url"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// Config is what a store needs besides its URL. Each field but Patience is a
// key of the resource's source, under the name that hints call it by.
type Config struct {
	// S3. Without credentials, requests are anonymous.
	AccessKeyID                 string
	SecretAccessKey             string
	SessionToken                string
	AWSRoleARN                  string // a role to assume with the credentials above, or those of the chain
	EnableAWSCredsProviderChain bool   // use what the SDK finds in environment, files and metadata services
	SkipS3Checksums             bool   // send no checksums beside the data, for stores that dislike them
	ConditionalWrites           *bool  // false is the user's word that there is only one writer

	// Web servers. At most one of these is needed.
	Netrc       string // the text of a netrc file
	BearerToken string // for the Authorization header

	// Whatever is reached over the network.
	DisableSSL          bool // plain http to an S3 endpoint whose URL doesn't say
	SkipSSLVerification bool
	CACerts             []string // in PEM, trusted besides the system's

	Patience Patience // zero means DefaultPatience
}

// Open returns the store at a cache's URL as it stands in nix.conf. It makes
// no request. Parameters of the URL that don't concern a store are ignored.
func Open(ctx context.Context, u *url.URL, config Config) (Store, error) {
	if config.Patience == (Patience{}) {
		config.Patience = DefaultPatience
	}
	switch u.Scheme {
	case "s3":
		return openS3(ctx, u, config)
	case "http", "https":
		return openWeb(u, config)
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return nil, hint.With(fmt.Errorf("the URL file://%s%s names no directory", u.Host, u.Path), "write file:///path/to/cache, with three slashes")
		}
		return NewDirectory(u.Path), nil
	case "":
		return nil, hint.With(fmt.Errorf("%s is not a URL", u.Path), "write file:///path/to/cache for a directory")
	default:
		return nil, hint.With(fmt.Errorf("caches can't be reached by %s", u.Scheme), "use s3://, https://, http:// or file://")
	}
}

// LocationOf returns the location that the store at u has once it is opened.
func LocationOf(u *url.URL, config Config) (Location, error) {
	switch u.Scheme {
	case "s3":
		l, err := parseS3(u, config)
		return (&S3{location: l}).Location(), err
	case "http", "https":
		return (&Web{base: webBase(u)}).Location(), nil
	default:
		return NewDirectory(u.Path).Location(), nil
	}
}
