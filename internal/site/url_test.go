package site

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCacheURL(t *testing.T) {
	type said struct {
		Store, Compression string
		Level              int
		MassQuery          *bool
		Priority           *int
	}
	yes, ten := true, 10
	for _, test := range []struct {
		url  string
		want said
	}{
		{"file:///srv/cache", said{Store: "file:///srv/cache"}},
		{" https://cache.example.org/\n", said{Store: "https://cache.example.org/"}},
		{"s3://bucket/prefix?region=eu-central-1&endpoint=s3.example.org&scheme=http&profile=ci", said{Store: "s3://bucket/prefix?endpoint=s3.example.org&profile=ci&region=eu-central-1&scheme=http"}},
		{"s3://bucket?compression=xz&compression-level=9&region=eu-central-1&parallel-compression=true", said{Store: "s3://bucket?region=eu-central-1", Compression: "xz", Level: 9}},
		{"file:///c?compression=none&compression-level=-1&want-mass-query=1&priority=10", said{Store: "file:///c", Compression: "none", MassQuery: &yes, Priority: &ten}},
		{"file:///c?trusted=false&write-nar-listing=false&store=/nix/store", said{Store: "file:///c"}},
	} {
		t.Run(test.url, func(t *testing.T) {
			c, err := ParseCacheURL(test.url)
			if err != nil {
				t.Fatal(err)
			}
			got := said{c.Store.String(), c.Compression, c.CompressionLevel, c.WantMassQuery, c.Priority}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseCacheURLRefuses(t *testing.T) {
	const asInNixConf = "hint: write it as in nix.conf: s3://bucket?region=eu-central-1, https://cache.example.org or file:///srv/cache"
	for _, test := range []struct {
		url  string
		want []string
	}{
		{"", []string{"error: not the URL of a cache", asInNixConf}},
		{"/srv/cache", []string{"error: not the URL of a cache", asInNixConf}},
		{"https://user:s3cret@[::1", []string{"error: not the URL of a cache", asInNixConf}},
		{"file:///srv/a#b", []string{"error: the URL of a cache has no fragment (#…)", "hint: write # as %23"}},
		{"file:///c?a=%zz", []string{"error: the URL's parameters can't be read: want name=value&name=value"}},
		{"file:///c?compresion=xz", []string{"error: the URL's parameter compresion is unknown", "hint: did you mean compression?"}},
		{"s3://b?regoin=x", []string{"error: the URL's parameter regoin is unknown", "hint: did you mean region?"}},
		{"s3://b?frobnicate=1", []string{"error: the URL's parameter frobnicate is unknown", "hint: nix help-stores lists them"}},
		{"file:///c?region=x", []string{"error: the URL's parameter region is one of s3:// caches, not of file://"}},
		{"file:///c?compression=bzip2", []string{"error: the URL's parameter compression: NARs are written with zstd, xz or none, not with bzip2"}},
		{"file:///c?compression-level=max", []string{"error: the URL's parameter compression-level: want -1 (the default) to 22, got max"}},
		{"file:///c?want-mass-query=perhaps", []string{"error: the URL's parameter want-mass-query: want true or false, got perhaps"}},
		{"file:///c?priority=-1", []string{"error: the URL's parameter priority: want a number, 0 or more, got -1"}},
		{"file:///c?store=/gnu/store", []string{"error: the URL's parameter store: closures of the store directory /nix/store are all that is supported"}},
		{"file:///c?trusted=true", []string{"error: the URL's parameter trusted: only false is supported", "hint: to take paths without a signature, set require_sigs: false"}},
		{"file:///c?write-nar-listing=1", []string{"error: the URL's parameter write-nar-listing: only false is supported", "hint: no listings of NARs are written"}},
		{"file:///c?secret-key=/etc/nix/key", []string{"error: the URL's parameter secret-key: it names a file, and keys are given by themselves", "hint: give the key itself: signing_key: ((cache.signing_key))"}},
	} {
		t.Run(test.url, func(t *testing.T) {
			_, err := ParseCacheURL(test.url)
			if diff := cmp.Diff(test.want, told(err)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
