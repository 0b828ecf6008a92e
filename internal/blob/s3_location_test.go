package blob

import (
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseS3(t *testing.T) {
	for _, test := range []struct {
		url    string
		config Config
		want   s3Location
	}{
		{"s3://nix-cache", Config{}, s3Location{bucket: "nix-cache", region: "us-east-1"}},
		{"s3://nix-cache/?region=eu-central-1&compression=xz&multipart-upload=true", Config{},
			s3Location{bucket: "nix-cache", region: "eu-central-1"}},
		{"s3://nix-cache/some/prefix/", Config{}, s3Location{bucket: "nix-cache", prefix: "some/prefix/", region: "us-east-1"}},
		{"s3://dotted.name", Config{}, s3Location{bucket: "dotted.name", region: "us-east-1", pathStyle: true}},
		{"s3://nix-cache?addressing-style=path", Config{}, s3Location{bucket: "nix-cache", region: "us-east-1", pathStyle: true}},
		{"s3://nix-cache?scheme=http", Config{}, s3Location{bucket: "nix-cache", region: "us-east-1", plain: true}},
		{"s3://nix-cache", Config{DisableSSL: true}, s3Location{bucket: "nix-cache", region: "us-east-1", plain: true}},
		{"s3://nix-cache?endpoint=minio.example.org:9000", Config{},
			s3Location{bucket: "nix-cache", region: "us-east-1", endpoint: "https://minio.example.org:9000", pathStyle: true}},
		{"s3://nix-cache?endpoint=minio.example.org&scheme=http", Config{},
			s3Location{bucket: "nix-cache", region: "us-east-1", endpoint: "http://minio.example.org", pathStyle: true}},
		{"s3://nix-cache?endpoint=minio.example.org", Config{DisableSSL: true},
			s3Location{bucket: "nix-cache", region: "us-east-1", endpoint: "http://minio.example.org", pathStyle: true}},
		{"s3://nix-cache?endpoint=https://s3.example.org/root/&addressing-style=virtual", Config{DisableSSL: true},
			s3Location{bucket: "nix-cache", region: "us-east-1", endpoint: "https://s3.example.org/root"}},
		{"s3://nix-cache?profile=ci&storage-class=STANDARD_IA", Config{},
			s3Location{bucket: "nix-cache", region: "us-east-1", profile: "ci", storageClass: "STANDARD_IA"}},
	} {
		u, err := url.Parse(test.url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseS3(u, test.config)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
		}
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(s3Location{})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", test.url, diff)
		}
	}
	for _, bad := range []string{
		"s3:", "s3:///prefix", "s3://key:secret@bucket", "s3://bucket:9000", "s3://bucket/a//b", "s3://bucket/../other",
		"s3://bucket?scheme=ftp", "s3://bucket?endpoint=ftp://host", "s3://bucket?endpoint=http://key:secret@host", "s3://bucket?endpoint=https://",
		"s3://bucket?endpoint=https://host/?token=secret", "s3://bucket?addressing-style=virtuel", "s3://dotted.name?addressing-style=virtual",
	} {
		u, err := url.Parse(bad)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parseS3(u, Config{}); err == nil {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}

// The location of a bucket is as it stands in nix.conf: whoever reads it there finds
// the same bucket of the same server.
func TestS3LocationURL(t *testing.T) {
	for _, test := range []struct{ url, want string }{
		{"s3://bucket", "s3://bucket?region=us-east-1"},
		{"s3://bucket/prefix/?region=eu-central-1&compression=xz&profile=ci", "s3://bucket/prefix?region=eu-central-1"},
		{"s3://bucket?scheme=http&region=x", "s3://bucket?region=x&scheme=http"},
		{"s3://bucket?endpoint=minio.example.org:9000&scheme=http", "s3://bucket?endpoint=http%3A%2F%2Fminio.example.org%3A9000"},
		{"s3://bucket?endpoint=https://s3.example.org&region=eu-1&addressing-style=virtual", "s3://bucket?addressing-style=virtual&endpoint=https%3A%2F%2Fs3.example.org&region=eu-1"},
	} {
		u, err := url.Parse(test.url)
		if err != nil {
			t.Fatal(err)
		}
		store, err := Open(t.Context(), u, Config{})
		if err != nil {
			t.Fatal(err)
		}
		if at, err := LocationOf(u, Config{}); err != nil || at != store.Location() {
			t.Errorf("%s: it is said to be at %s (%v)", test.url, at, err)
		}
		got := store.Location().String()
		if got != test.want {
			t.Errorf("%s: got %s, want %s", test.url, got, test.want)
		}
		if u, err = url.Parse(got); err != nil {
			t.Fatal(err)
		}
		if again, err := Open(t.Context(), u, Config{}); err != nil || again.Location() != store.Location() {
			t.Errorf("%s leads elsewhere (%v)", got, err)
		}
	}
}
