package pointer

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

func TestParseName(t *testing.T) {
	for _, s := range []string{
		"web-1", "web-1.example.org", "7", "A_b", "x.", "web..1", "d", "json", "web.json.old", strings.Repeat("w", 128),
	} {
		name, err := ParseName(s)
		if err != nil || string(name) != s {
			t.Errorf("%q: got %q, %v", s, name, err)
		}
		for _, key := range []string{name.historyKey(), name.plainKey(), name.numberedKey(1<<53 - 1)} {
			if !blob.ValidKey(key) {
				t.Errorf("%q: %q can't name an object", s, key)
			}
		}
	}
	for s, want := range map[string]string{
		"":                       "it is empty",
		strings.Repeat("w", 129): "129 characters",
		"-web":                   "starts with -",
		".conditional-writes":    "starts with .",
		"_web":                   "starts with _",
		"web.json":               "end in .json or .d",
		"web.d":                  "end in .json or .d",
		"web/1":                  "contains '/'",
		"web 1":                  "contains ' '",
		"web;1":                  "contains ';'",
		"wéb":                    "contains 'é'",
		"web\n":                  `contains '\n'`,
	} {
		_, err := ParseName(s)
		wantError(t, err, want)
	}
}

func TestNameIsParsedInJSON(t *testing.T) {
	var name Name
	wantError(t, json.Unmarshal([]byte(`"../secrets"`), &name), "starts with .")
	if err := json.Unmarshal([]byte(`"web-1"`), &name); err != nil || name != "web-1" {
		t.Errorf("got %q, %v", name, err)
	}
}
