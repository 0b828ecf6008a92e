package site

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

func TestProvenance(t *testing.T) {
	build := map[string]string{
		"BUILD_TEAM_NAME": "main", "BUILD_PIPELINE_NAME": "hosts", "BUILD_JOB_NAME": "build", "BUILD_NAME": "42", "BUILD_ID": "1234",
		"BUILD_URL": "https://ci.example.org/teams/main/pipelines/hosts/jobs/build/builds/42", "ATC_EXTERNAL_URL": "https://ci.example.org",
	}
	getenv := func(name string) string { return build[name] }
	for _, test := range []struct {
		disclose Disclosure
		want     pointer.Provenance
	}{
		{Full, pointer.Provenance{Team: "main", Pipeline: "hosts", Job: "build", Build: "42", URL: build["BUILD_URL"]}},
		{Minimal, pointer.Provenance{Pipeline: "hosts", Job: "build", Build: "42"}},
		{None, pointer.Provenance{}},
	} {
		if diff := cmp.Diff(test.want, Provenance(getenv, test.disclose)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", test.disclose, diff)
		}
	}

	delete(build, "BUILD_URL") // as before Concourse 8
	if got, want := buildURL(getenv), "https://ci.example.org/builds/1234"; got != want {
		t.Errorf("without BUILD_URL: got %q, want %q", got, want)
	}
	delete(build, "ATC_EXTERNAL_URL")
	if got := buildURL(getenv); got != "" {
		t.Errorf("outside Concourse: got %q, want nothing", got)
	}
}
