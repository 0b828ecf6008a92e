package site

import (
	"fmt"

	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A Disclosure is how much of a build's provenance readers of the cache learn.
type Disclosure string

const (
	Full    Disclosure = "full"
	Minimal Disclosure = "minimal" // pipeline, job and build, but neither team nor address
	None    Disclosure = "none"
)

func parseDisclosure(s string) (Disclosure, error) {
	switch d := Disclosure(s); d {
	case Full, Minimal, None:
		return d, nil
	}
	return "", fmt.Errorf("want full, minimal or none, got %q", s)
}

// Provenance names the running build, as far as that may be disclosed. What
// Concourse doesn't set is empty.
func Provenance(getenv func(string) string, disclose Disclosure) pointer.Provenance {
	if disclose == None {
		return pointer.Provenance{}
	}
	p := pointer.Provenance{
		Pipeline: getenv("BUILD_PIPELINE_NAME"),
		Job:      getenv("BUILD_JOB_NAME"),
		Build:    getenv("BUILD_NAME"),
	}
	if disclose == Full {
		p.Team = getenv("BUILD_TEAM_NAME")
		p.URL = buildURL(getenv)
	}
	return p
}

// buildURL is the page of the running build: Concourse says it since 8.0, and
// before that what it is made of.
func buildURL(getenv func(string) string) string {
	if url := getenv("BUILD_URL"); url != "" {
		return url
	}
	base, id := getenv("ATC_EXTERNAL_URL"), getenv("BUILD_ID")
	if base == "" || id == "" {
		return ""
	}
	return base + "/builds/" + id
}
