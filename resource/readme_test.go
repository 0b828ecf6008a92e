package resource

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The README has a row for every key that the programs know.
func TestReadmeNamesEveryKey(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Join(regexp.MustCompile("(?m)^\\| `.*? \\|").FindAllString(string(readme), -1), "\n")
	for _, test := range []struct {
		fields string
		decode func(*request)
	}{
		{"source", func(r *request) { r.source() }},
		{"params", func(r *request) { decodeGet(r) }},
		{"params", func(r *request) { decodePut(r) }},
	} {
		r := &request{objects: map[string]json.RawMessage{test.fields: json.RawMessage(`{"?": 1}`)}}
		test.decode(r)
		for _, key := range knownKeys(r.err()) {
			if !strings.Contains(rows, "`"+key+"`") {
				t.Errorf("the README has no row for %s of %s", key, test.fields)
			}
		}
	}
}

// knownKeys are those that the error of an unknown key lists.
func knownKeys(err error) []string {
	for _, line := range told(err) {
		if _, list, ok := strings.Cut(line, "hint: known keys of "); ok {
			_, list, _ = strings.Cut(list, ": ")
			return strings.Split(list, ", ")
		}
	}
	panic("no error lists the known keys")
}
