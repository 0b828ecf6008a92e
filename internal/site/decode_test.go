package site

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/console"
)

// told is what a person is told of an error: each problem with its hints.
func told(err error) []string {
	if err == nil {
		return nil
	}
	var b strings.Builder
	console.New(&b, os.Getenv, nil).Fail(err)
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
}

func TestParseLifetime(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"168h": 7 * day, "7d": 7 * day, "1m": time.Minute, "36h30m": 36*time.Hour + 30*time.Minute,
		"": 0, "7": 0, "59s": 0, "-7d": 0, "0d": 0, "1.5d": 0, "99999999999d": 0, "90000.5ms": 0, "week": 0,
	} {
		got, err := parseLifetime(s)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: got %v, %v, want %v", s, got, err, want)
		}
	}
}
