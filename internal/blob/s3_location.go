package blob

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// An s3Location is what an s3:// URL says, in the parameters of Nix.
type s3Location struct {
	bucket       string
	prefix       string // of all keys: empty, or with a slash at its end
	region       string
	endpoint     string // with scheme; empty for Amazon's own in that region
	plain        bool   // http instead of https to Amazon's own
	pathStyle    bool   // the bucket is named in the URL's path, not in its host
	profile      string // of the credentials' files
	storageClass string
}

// parseS3 reads the URL as Nix does: its region, endpoint, scheme, profile,
// addressing-style and storage-class. Nix's other parameters concern how it
// uploads, or no store.
func parseS3(u *url.URL, config Config) (s3Location, error) {
	query := u.Query()
	l := s3Location{
		bucket:       u.Host,
		region:       query.Get("region"),
		profile:      query.Get("profile"),
		storageClass: query.Get("storage-class"),
	}
	if l.bucket == "" || u.User != nil || u.Port() != "" {
		return l, hint.With(fmt.Errorf("the cache's URL names no bucket"), "write s3://bucket or s3://bucket/prefix, with parameters such as ?region=… after it")
	}
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		if !ValidKey(prefix) {
			return l, fmt.Errorf("%q can't be a prefix of objects in a bucket", prefix)
		}
		l.prefix = prefix + "/"
	}
	if l.region == "" {
		l.region = "us-east-1" // as Nix does
	}
	scheme := query.Get("scheme")
	if scheme == "" {
		scheme = "https"
		if config.DisableSSL {
			scheme = "http"
		}
	}
	if scheme != "http" && scheme != "https" {
		return l, fmt.Errorf("the cache's URL has scheme=%s, which is neither http nor https", scheme)
	}
	if endpoint := query.Get("endpoint"); endpoint == "" {
		l.plain = scheme == "http"
	} else {
		if !strings.Contains(endpoint, "://") {
			endpoint = scheme + "://" + endpoint
		}
		e, err := url.Parse(endpoint)
		if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Host == "" || e.User != nil || e.RawQuery != "" {
			return l, hint.With(fmt.Errorf("the endpoint in the cache's URL is not one"), "write endpoint=https://host or endpoint=https://host:port")
		}
		l.endpoint = strings.TrimSuffix(endpoint, "/")
	}
	switch style := query.Get("addressing-style"); style {
	case "", "auto":
		// Amazon's certificates are good for one label before s3.region.
		l.pathStyle = l.endpoint != "" || strings.Contains(l.bucket, ".")
	case "path":
		l.pathStyle = true
	case "virtual":
		if strings.Contains(l.bucket, ".") {
			return l, hint.With(fmt.Errorf("the name of the bucket %s has a dot, which no certificate of the host bucket.endpoint can be for", l.bucket), "leave out addressing-style=virtual")
		}
	default:
		return l, fmt.Errorf("the cache's URL has addressing-style=%s, which is none of auto, path and virtual", style)
	}
	return l, nil
}

// url is the location as it stands in nix.conf, given the URL of bucket and prefix.
func (l s3Location) url(bucket string) string {
	query := url.Values{}
	if l.endpoint != "" {
		query.Set("endpoint", l.endpoint)
	} else if l.plain {
		query.Set("scheme", "http")
	}
	if l.region != "us-east-1" || l.endpoint == "" {
		query.Set("region", l.region)
	}
	if l.pathStyle != (l.endpoint != "" || strings.Contains(l.bucket, ".")) {
		query.Set("addressing-style", map[bool]string{true: "path", false: "virtual"}[l.pathStyle])
	}
	return bucket + "?" + query.Encode()
}

// server is the endpoint for messages.
func (l s3Location) server() string {
	if l.endpoint != "" {
		return l.endpoint
	}
	return "S3 in " + l.region
}

// secure says whether the server is reached by TLS.
func (l s3Location) secure() bool {
	if l.endpoint != "" {
		return strings.HasPrefix(l.endpoint, "https:")
	}
	return !l.plain
}
