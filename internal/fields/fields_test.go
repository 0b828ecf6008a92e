package fields

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
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

func parseNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && s[0] == '0' {
		err = fmt.Errorf("%q is not the number of a generation: want 1, 2, 3, …", s)
	}
	return n, err
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
		problems     []string
	}{
		{name: "all", source: `{"text": "t", "flag": false, "optional": true, "list": ["a", "b"], "number": "12"}`, want: taken{"t", false, &yes, []string{"a", "b"}, 12}},
		{name: "none", source: `{}`, want: taken{Flag: true}},
		{name: "strings for booleans", source: `{"flag": "false", "optional": "true"}`, want: taken{Optional: &yes}},
		{name: "strings of a credential manager", source: `{"text": "t\n", "flag": "false\n", "optional": "true\r\n", "list": ["a\n", "b\nc\n"], "number": "12\n"}`, want: taken{"t", false, &yes, []string{"a", "b\nc"}, 12}},
		{name: "null is none", source: `{"text": null, "flag": null, "optional": null, "list": null, "number": null}`, want: taken{Flag: true}},
		{name: "no source at all", source: `null`, want: taken{Flag: true}},
		{name: "one string for a list", source: `{"list": "a b"}`, want: taken{Flag: true, List: []string{"a b"}}},
		{name: "unknown", source: `{"txet": "a", "bucket": "b", "entirely": 1}`, want: taken{Flag: true}, problems: []string{
			"error: source.bucket: unknown key", "hint: the bucket is part of the cache's URL, as in nix.conf: cache: s3://bucket",
			"error: source.entirely: unknown key", "hint: known keys of source: flag, list, number, optional, text",
			"error: source.txet: unknown key", "hint: did you mean text?",
		}},
		{name: "wrong types", source: `{"text": 1, "flag": "yes", "optional": [], "list": {}, "number": 12}`, want: taken{Flag: true, Optional: new(bool)}, problems: []string{
			"error: source.text: want a string, got a number",
			"error: source.flag: want true or false, got a string",
			"error: source.optional: want true or false, got a list",
			"error: source.list: want a list of strings or a string, got an object",
			"error: source.number: want a string, got a number",
		}},
		{name: "strings that are no booleans", source: `{"flag": "", "optional": "TRUE"}`, want: taken{Flag: true, Optional: new(bool)}, problems: []string{
			"error: source.flag: want true or false, got a string",
			"error: source.optional: want true or false, got a string",
		}},
		{name: "wrong element", source: `{"list": ["a", null, true]}`, want: taken{Flag: true, List: []string{"a", "", ""}}, problems: []string{
			"error: source.list[1]: want a string, got null",
			"error: source.list[2]: want a string, got a boolean",
		}},
		{name: "parser's error", source: `{"number": "012"}`, want: taken{Flag: true}, problems: []string{
			`error: source.number: "012" is not the number of a generation: want 1, 2, 3, …`,
		}},
		{name: "not an object", source: `"file:///c"`, want: taken{Flag: true}, problems: []string{
			"error: source: want an object of keys and values, got a string",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var problems Problems
			o := Parse(json.RawMessage(test.source), At("source"), &problems)
			o.Moved = map[string]string{"bucket": "the bucket is part of the cache's URL, as in nix.conf: cache: s3://bucket"}
			got := taken{o.Text("text"), o.Flag("flag", true), o.OptionalFlag("optional"), o.Texts("list"), Parsed(o, "number", parseNumber)}
			o.Finish()
			if diff := cmp.Diff(test.problems, told(problems.Err())); diff != "" {
				t.Errorf("problems (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
