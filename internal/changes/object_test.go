package changes

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

var comparePaths = cmp.Comparer(func(a, b nix.StorePath) bool { return a == b })

func TestObject(t *testing.T) {
	today, tomorrow := twoDays(t)
	for name, c := range map[string]*Changes{
		"some":    Compare(today, tomorrow),
		"none":    Compare(today, Closure{Generation: 12, Root: today.Root, Infos: today.Infos}),
		"a first": Compare(Closure{}, tomorrow),
	} {
		t.Run(name, func(t *testing.T) {
			store := blob.NewMemory()
			for range 2 { // a put that is repeated writes it again
				if err := c.Write(t.Context(), store, "web-1"); err != nil {
					t.Fatal(err)
				}
			}
			if data, _, _ := blob.ReadAll(t.Context(), store, "changes/web-1/12.json", MaxObject, blob.GetOptions{}); bytes.Contains(data, []byte("null")) {
				t.Errorf("a list is missing where it could be empty: %s", data)
			}
			got, err := Read(t.Context(), store, "web-1", 12)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c, got, comparePaths); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if _, err := Read(t.Context(), store, "web-1", 11); !errors.Is(err, blob.ErrNotExist) {
				t.Errorf("reading another one's: %v", err)
			}
		})
	}
}

func TestObjectIsBounded(t *testing.T) {
	c := &Changes{After: Side{Generation: 1}, Packages: []Package{{Name: strings.Repeat("n", MaxObject)}}}
	var tooLarge *blob.TooLargeError
	store := blob.NewMemory()
	if err := c.Write(t.Context(), store, "web-1"); !errors.As(err, &tooLarge) {
		t.Errorf("writing it: %v", err)
	}
	endless := strings.NewReader(`{"after":{"generation":1}}` + strings.Repeat(" ", MaxObject))
	if _, err := store.Put(t.Context(), Key("web-1", 1), endless, blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(t.Context(), store, "web-1", 1); !errors.As(err, &tooLarge) {
		t.Errorf("reading it: %v", err)
	}
}

// Whoever can write to the bucket can put anything there. It is refused, or it
// does no harm to who prints it.
func TestHostileObjects(t *testing.T) {
	for name, test := range map[string]struct{ object, wantError string }{
		"nothing":            {``, "changes/web-1/12.json in memory: is not valid: unexpected end of JSON input"},
		"another generation": {`{"after": {"generation": 11}}`, "changes/web-1/12.json in memory: is not valid: it is about generation 11"},
		"no path":            {`{"after": {"generation": 12, "path": "/etc/passwd"}}`, "not a store path"},
		"empty":              {`{"after": {"generation": 12}}`, ""},
		"nulls":              {`{"before": {}, "after": {"generation": 12}, "reboot": null, "packages": [{}, {"name": "a", "before": {"versions": null}}]}`, ""},
		"unlikely sizes":     {`{"before": {"narSize": 9223372036854775807}, "after": {"generation": 12, "narSize": -9223372036854775808}, "packages": [{"name": "a", "before": {"versions": ["", ""], "narSize": -9223372036854775808}}]}`, ""},
		"control characters": {`{"before": {"revision": "\u001b[2J"}, "after": {"generation": 12, "revision": "\u202e\u0007"}, "reboot": ["\u001b]0;"], "packages": [{"name": "\u001b[1A\r", "before": {"versions": ["\u001b\n", "\u009b"]}}]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			store := blob.NewMemory()
			if _, err := store.Put(t.Context(), Key("web-1", 12), strings.NewReader(test.object), blob.PutOptions{}); err != nil {
				t.Fatal(err)
			}
			c, err := Read(t.Context(), store, "web-1", 12)
			if test.wantError != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantError) {
					t.Errorf("want an error with %q, got %v", test.wantError, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			said := c.Text(false) + c.Summary()
			for _, p := range c.Packages {
				said += p.String()
			}
			if i := strings.IndexFunc(said, func(r rune) bool { return r != '\n' && printable(string(r)) != string(r) }); i >= 0 {
				t.Errorf("it can control a terminal: %q", said)
			}
			if len(c.Summary()) > MaxSummary {
				t.Errorf("the summary has %d bytes", len(c.Summary()))
			}
		})
	}
}

// The documented object is one, and is what its text says.
func TestDocumentedChanges(t *testing.T) {
	object := example(t, "json changes/web-1/2.json")
	var c Changes
	if err := json.Unmarshal([]byte(object), &c); err != nil {
		t.Fatal(err)
	}
	written, err := json.MarshalIndent(&c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(object, string(written)+"\n"); diff != "" {
		t.Errorf("JSON (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(example(t, "text changes.txt"), c.Text(false)); diff != "" {
		t.Errorf("text (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff(example(t, "text summary"), c.Summary()+"\n"); diff != "" {
		t.Errorf("summary (-want +got)\n%s", diff)
	}
}

// example returns the block of docs/formats.md with that label.
func example(t *testing.T, label string) string {
	t.Helper()
	document, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(document), "\n```"+label+"\n")
	block, _, closed := strings.Cut(rest, "```\n")
	if !ok || !closed {
		t.Fatalf("docs/formats.md has no example %q", label)
	}
	return block
}
