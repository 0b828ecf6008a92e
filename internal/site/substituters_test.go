package site

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/fields"
)

// A cache that is named twice, under substituters and skip_upstream, is one
// however its URL is written; a bucket of the same name elsewhere is another.
func TestSkipUpstreamNamesASubstituter(t *testing.T) {
	for _, test := range []struct {
		name, substituter, skipped string
		want                       []bool // what is skipped of the substituters there are then
	}{
		{"as written", `"https://cache.nixos.org"`, "https://cache.nixos.org", []bool{true}},
		{"with a slash", `"https://cache.nixos.org"`, "https://cache.nixos.org/", []bool{true}},
		{"with preferences", `"https://cache.nixos.org?priority=10"`, "https://cache.nixos.org", []bool{true}},
		{"another cache", `"https://cache.nixos.org"`, "https://cache.nixos.org/other", []bool{false, true}},
		{"the default region", `"s3://theirs"`, "s3://theirs/?region=us-east-1", []bool{true}},
		{"an endpoint with its scheme", `"s3://theirs?endpoint=host:9000&scheme=http"`, "s3://theirs?endpoint=http://host:9000", []bool{true}},
		{"a scheme that is said elsewhere", `{"url": "s3://theirs?endpoint=host", "disable_ssl": true}`, "s3://theirs?endpoint=host", []bool{true}},
		{"another server", `"s3://theirs?endpoint=one"`, "s3://theirs?endpoint=two", []bool{false, true}},
		{"another region", `"s3://theirs"`, "s3://theirs?region=eu-central-1", []bool{false, true}},
		{"a directory", `"file:///srv/cache/"`, "file:///srv/cache", []bool{true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var problems fields.Problems
			raw := json.RawMessage(`{"substituters": [` + test.substituter + `], "skip_upstream": "` + test.skipped + `"}`)
			list := decodeSubstituters(fields.Parse(raw, fields.At("source"), &problems), nil)
			if err := problems.Err(); err != nil {
				t.Fatal(err)
			}
			var got []bool
			for _, s := range list {
				got = append(got, s.SkipUpstream)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("skipped (-want +got)\n%s", diff)
			}
		})
	}
}
