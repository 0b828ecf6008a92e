package nix_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

const hashPart = "00bgd045z0d4icpbc2yyz4gx48ak44la"

func TestParseStorePath(t *testing.T) {
	path := mustPath(t, "/nix/store/"+hashPart+"-net-tools-1.60")
	got := []string{path.String(), path.Base(), path.HashPart(), path.Name()}
	want := []string{"/nix/store/" + hashPart + "-net-tools-1.60", hashPart + "-net-tools-1.60", hashPart, "net-tools-1.60"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if base, err := nix.ParseBaseName(path.Base()); err != nil || base != path {
		t.Errorf("its base name reads back as %v, %v", base, err)
	}
	var zero nix.StorePath
	if !zero.IsZero() || path.IsZero() || zero.String()+zero.Base()+zero.HashPart()+zero.Name() != "" {
		t.Errorf("the zero value is %q", zero.String())
	}
}

// A store path becomes the name of a file and of an object in a cache: nothing
// may pass that is another's, or leads elsewhere. Nix has the same opinion.
func TestParseStorePathRefuses(t *testing.T) {
	const prefix = "/nix/store/" + hashPart + "-"
	tests := []struct {
		path  string
		valid bool
	}{
		{prefix + "x", true},
		{prefix + "+-._?=", true},
		{prefix + ".x", true},
		{prefix + "...", true},
		{prefix + "x..y", true},
		{prefix + strings.Repeat("n", 211), true},

		{prefix + strings.Repeat("n", 212), false},
		{prefix, false},
		{prefix + ".", false},
		{prefix + "..", false},
		{prefix + ".-x", false},
		{prefix + "..-x", false},
		{prefix + "x/bin", false},
		{prefix + "../../etc", false},
		{prefix + "x\x00", false},
		{prefix + "x\n", false},
		{prefix + "x y", false},
		{prefix + "x%2f", false},
		{prefix + `x\y`, false},
		{prefix + "ä", false},
		{"", false},
		{"/nix/store", false},
		{"/nix/store/", false},
		{"/nix/store/..", false},
		{"/nix/store/../store/" + hashPart + "-x", false}, // which Nix makes canonical
		{"nix/store/" + hashPart + "-x", false},
		{"/xix/store/" + hashPart + "-x", false},
		{"/gnu/store/" + hashPart + "-x", false},
		{"/nix/store/" + hashPart, false},
		{"/nix/store/" + hashPart + "x-y", false}, // where Nix doesn't look for the dash
		{"/nix/store/" + hashPart[1:] + "-x", false},
		{"/nix/store/" + hashPart[1:] + "--x", false},
		{"/nix/store/" + strings.ToUpper(hashPart) + "-x", false},
		{"/nix/store/e" + hashPart[1:] + "-x", false}, // e, o, t and u are not in the alphabet
		{"/nix/store/." + hashPart[1:] + "-x", false},
	}
	for _, test := range tests {
		path, err := nix.ParseStorePath(test.path)
		if (err == nil) != test.valid {
			t.Errorf("%q: got %v, %v, want valid %v", test.path, path, err, test.valid)
		}
		if err != nil && !path.IsZero() {
			t.Errorf("%q: a path comes along with the error", test.path)
		}
	}

	t.Run("as Nix", func(t *testing.T) {
		store := nixtest.Current(t).NewStore(t)
		for _, test := range tests {
			if strings.Contains(test.path, "/..") || strings.Contains(test.path, "x/bin") || strings.Contains(test.path, "x-y") || strings.ContainsRune(test.path, 0) {
				continue // Nix makes these canonical first, doesn't look closely, or can't be given them
			}
			// It evaluates to the path if it is one.
			expression := "builtins.appendContext ''x'' { ${builtins.fromJSON ''" + quote(test.path) + "''} = { path = true; }; }"
			_, err := store.Try("nix-instantiate", "--eval", "--expr", expression)
			if refused := err != nil && !strings.Contains(err.Error(), "is not valid") && !strings.Contains(err.Error(), "don't know how to build"); refused == test.valid {
				t.Errorf("%q: we say %v, and Nix: %v", test.path, test.valid, err)
			}
		}
	})
}

// quote writes s such that Nix reads it from within two apostrophes as JSON.
func quote(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return strings.ReplaceAll(string(data), "''", "'''")
}

func TestStorePathOrder(t *testing.T) {
	a, b, c := mustPath(t, "/nix/store/"+hashPart+"-a"), mustPath(t, "/nix/store/"+hashPart+"-a-b"), mustPath(t, "/nix/store/1"+hashPart[1:]+"-A")
	got := nix.SortPaths([]nix.StorePath{c, a, b, a, c})
	if diff := cmp.Diff([]string{a.Base(), b.Base(), c.Base()}, bases(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func bases(paths []nix.StorePath) (names []string) {
	for _, path := range paths {
		names = append(names, path.Base())
	}
	return names
}

func TestStorePathAsText(t *testing.T) {
	want := map[string]nix.StorePath{"path": mustPath(t, "/nix/store/"+hashPart+"-x")}
	data, err := json.Marshal(want)
	if err != nil || string(data) != `{"path":"/nix/store/`+hashPart+`-x"}` {
		t.Fatalf("got %s, %v", data, err)
	}
	var got map[string]nix.StorePath
	if err := json.Unmarshal(data, &got); err != nil || got["path"] != want["path"] {
		t.Errorf("reads back as %v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`{"path":"/etc/passwd"}`), &got); err == nil {
		t.Error("a path that is none was read")
	}
}
