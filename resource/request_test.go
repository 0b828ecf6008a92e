package resource

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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

func TestReadRequest(t *testing.T) {
	const byHand = `hint: Concourse writes the request; by hand: echo '{"source": {"cache": "…", "pointer": "…"}}' | check`
	for _, test := range []struct {
		name, stdin, want string
	}{
		{"nothing", "", "error: stdin is empty"},
		{"blank", " \n", "error: stdin is empty"},
		{"truncated", `{"source": {"cache": "file:///c`, "error: the JSON on stdin ends too early"},
		{"truncated between tokens", `{"source": {`, "error: the JSON on stdin ends too early"},
		{"not JSON", "cache: file:///c", "error: stdin is not JSON: at byte 1: invalid character 'c' looking for beginning of value"},
		{"more than one", `{} {}`, "error: stdin is not JSON: at byte 4: invalid character '{' after top-level value"},
		{"a list", `[1]`, "error: stdin: want a JSON object, got a list"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := readRequest(strings.NewReader(test.stdin))
			if diff := cmp.Diff([]string{test.want, byHand}, told(err)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
