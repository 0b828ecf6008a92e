package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

func newKey(t *testing.T, host string) nix.SecretKey {
	t.Helper()
	text, err := NewKey(host)
	if err != nil {
		t.Fatal(err)
	}
	key, err := nix.ParseSecretKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

var made = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC).Unix()

func example(t *testing.T) Report {
	t.Helper()
	path, err := nix.ParseBaseName(strings.Repeat("0", 32) + "-nixos-system-web-1-25.05")
	if err != nil {
		t.Fatal(err)
	}
	system := System{12, path}
	return Report{
		Pointer: "web", Host: "web-1.example.org", Number: 7, Made: made, Expires: made + 3600, Boot: "first",
		Wanted: system, Running: system, Boots: system, Proven: Proof{system, "abc", "first", made},
		Result: "switched", Sentence: "generation 12 of web runs <now> & is proven", Generation: 12, Path: path,
		Held: &Hold{made + 60, "the auditors are here"},
	}
}

func TestReport(t *testing.T) {
	key, want := newKey(t, "web-1.example.org"), example(t)
	data, err := Sign(want, key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data, "web", "web-1.example.org", nix.Keys{newKey(t, "web-1.example.org").Public(), key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b nix.StorePath) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got.Expired(time.Unix(made+3599, 0)) || !got.Expired(time.Unix(made+3600, 0)) {
		t.Error("it expires at another time than it says")
	}
}

// Who may write to the cache, and has not this host's key.
func TestForgedReports(t *testing.T) {
	key := newKey(t, "web-1.example.org")
	data, err := Sign(example(t), key)
	if err != nil {
		t.Fatal(err)
	}
	keys := nix.Keys{key.Public()}
	edited := func(old, new string) []byte {
		if !bytes.Contains(data, []byte(old)) {
			t.Fatalf("there is no %s in %s", old, data)
		}
		return bytes.Replace(data, []byte(old), []byte(new), 1)
	}
	for name, test := range map[string]struct {
		data          []byte
		pointer, host string
		want          string
	}{
		"another host's":       {data, "web", "web-2", "it is that of web-1.example.org"},
		"of another pointer":   {data, "db", "web-1.example.org", "which follows web"},
		"result":               {edited(`\"switched\"`, `\"failed\"`), "web", "web-1.example.org", "is not signed by a key of that host"},
		"number":               {edited(`\"number\":7`, `\"number\":8`), "web", "web-1.example.org", "is not signed"},
		"expiry":               {edited(`\"expires\":1795870800`, `\"expires\":1995870800`), "web", "web-1.example.org", "is not signed"},
		"activation":           {edited(`\"abc\"`, `\"abd\"`), "web", "web-1.example.org", "is not signed"},
		"no signature":         {edited(`"signatures":["`, `"signatures":[],"old":["`), "web", "web-1.example.org", "is not signed"},
		"a signature of sorts": {edited(`"signatures":["`, `"signatures":["x`+"\\n"), "web", "web-1.example.org", "sign"},
		"endless":              {append(bytes.Clone(data), make([]byte, MaxSize)...), "web", "web-1.example.org", "and may have 65536"},
		"something else":       {[]byte("null"), "web", "web-1.example.org", "it is no report"},
	} {
		if _, err := Parse(test.data, test.pointer, test.host, keys); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: want an error with %q, got %v", name, test.want, err)
		}
	}
	if _, err := Parse(data, "web", "web-1.example.org", nix.Keys{newKey(t, "web-1.example.org").Public()}); err == nil {
		t.Error("a report by another key of that name is accepted")
	}
	if _, err := Parse(data, "web", "web-1.example.org", nil); err == nil {
		t.Error("a report is accepted by somebody who accepts no key")
	}
}

// What is no report, or would be something else in what is signed.
func TestWhatIsNotSigned(t *testing.T) {
	key := newKey(t, "web-1")
	for name, change := range map[string]func(*Report){
		"host":        func(r *Report) { r.Host = "web;1" },
		"a directory": func(r *Report) { r.Host = "../x" },
		"pointer":     func(r *Report) { r.Pointer = "" },
		"number":      func(r *Report) { r.Number = 0 },
		"expiry":      func(r *Report) { r.Expires = r.Made },
		"result":      func(r *Report) { r.Result = "" },
		"size":        func(r *Report) { r.Sentence = strings.Repeat("x", MaxSize) },
	} {
		r := example(t)
		change(&r)
		if _, err := Sign(r, key); err == nil {
			t.Errorf("%s: it is signed", name)
		}
	}
	if _, err := NewKey("web:1"); err == nil {
		t.Error("a key has a name that its format can't have")
	}
}

// Fields that this version doesn't know are kept in what is verified, and
// otherwise ignored.
func TestUnknownFields(t *testing.T) {
	key, r := newKey(t, "web-1"), example(t)
	text, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(text), "{", `{"weather":"fine",`, 1)
	data, err := json.Marshal(document{newer, []string{key.Sign(r.line(newer)).String()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(data, r.Pointer, r.Host, nix.Keys{key.Public()}); err != nil {
		t.Error(err)
	}
}
