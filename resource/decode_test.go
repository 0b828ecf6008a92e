package resource

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// told is what a person is told of an error: each mistake with its hints.
func told(err error) []string {
	if err == nil {
		return nil
	}
	var lines []string
	each := []error{err}
	if many, ok := err.(mistakes); ok {
		each = many
	}
	for _, err := range each {
		lines = append(lines, "error: "+err.Error())
		for _, advice := range hint.Of(err) {
			lines = append(lines, "hint: "+advice)
		}
	}
	return lines
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

func TestObject(t *testing.T) {
	type taken struct {
		Text     string
		Flag     bool
		Optional *bool
		List     []string
		Number   uint64
	}
	yes := true
	for _, test := range []struct {
		name, source string
		want         taken
		mistakes     []string
	}{
		{name: "all", source: `{"text": "t", "flag": false, "optional": true, "list": ["a", "b"], "number": "12"}`, want: taken{"t", false, &yes, []string{"a", "b"}, 12}},
		{name: "none", source: `{}`, want: taken{Flag: true}},
		{name: "null is none", source: `{"text": null, "flag": null, "optional": null, "list": null, "number": null}`, want: taken{Flag: true}},
		{name: "no source at all", source: `null`, want: taken{Flag: true}},
		{name: "one string for a list", source: `{"list": "a b"}`, want: taken{Flag: true, List: []string{"a b"}}},
		{name: "unknown", source: `{"txet": "a", "bucket": "b", "entirely": 1}`, want: taken{Flag: true}, mistakes: []string{
			"error: source.bucket: unknown key", "hint: the bucket is part of the cache's URL, as in nix.conf: cache: s3://bucket",
			"error: source.entirely: unknown key", "hint: known keys of source: flag, list, number, optional, text",
			"error: source.txet: unknown key", "hint: did you mean text?",
		}},
		{name: "wrong types", source: `{"text": 1, "flag": "true", "optional": [], "list": {}, "number": 12}`, want: taken{Flag: true, Optional: new(bool)}, mistakes: []string{
			"error: source.text: want a string, got a number",
			"error: source.flag: want true or false, got a string",
			"error: source.optional: want true or false, got a list",
			"error: source.list: want a list of strings or a string, got an object",
			"error: source.number: want a string, got a number",
		}},
		{name: "wrong element", source: `{"list": ["a", null, true]}`, want: taken{Flag: true, List: []string{"a", "", ""}}, mistakes: []string{
			"error: source.list[1]: want a string, got null",
			"error: source.list[2]: want a string, got a boolean",
		}},
		{name: "parser's error", source: `{"number": "012"}`, want: taken{Flag: true}, mistakes: []string{
			`error: source.number: "012" is not the number of a generation: want 1, 2, 3, …`,
		}},
		{name: "not an object", source: `"file:///c"`, want: taken{Flag: true}, mistakes: []string{
			"error: source: want an object of keys and values, got a string",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := readRequest(strings.NewReader(`{"source": ` + test.source + `, "unknown to us": {}}`))
			if err != nil {
				t.Fatal(err)
			}
			o := r.object("source")
			got := taken{o.text("text"), o.flag("flag", true), o.optionalFlag("optional"), o.texts("list"), parsed(o, "number", parseGeneration)}
			o.finish()
			if diff := cmp.Diff(test.mistakes, told(r.err())); diff != "" {
				t.Errorf("mistakes (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
