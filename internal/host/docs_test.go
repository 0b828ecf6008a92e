package host

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// docs/hosts.md has each setting, each result with its status, each field of the
// state, and each file.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile("../../docs/hosts.md")
	must(t, err)
	text := string(data)
	want := func(row string) {
		t.Helper()
		if !strings.Contains(text, "\n| "+row+" |") {
			t.Errorf("docs/hosts.md has no row %q", row)
		}
	}
	for _, name := range fields(reflect.TypeFor[Config]()) {
		if name != "health" {
			want("`" + name + "`")
		}
	}
	for _, name := range fields(reflect.TypeFor[Health]()) {
		want("`health." + name + "`")
	}
	for _, name := range fields(reflect.TypeFor[State]()) {
		want("`" + name + "`")
	}
	for _, r := range []Result{NothingNew, Switched, Tested, Booting, Shown, Waiting, Held, Drift, Refused, Failed, Inconclusive, Stranded, Unreachable} {
		want(fmt.Sprintf("`%s` | %d", r, r.Status()))
	}
	for _, name := range []string{stateFile, holdFile, lockFile} {
		want("`" + name + "`")
	}
}

func somePath(t *testing.T) nix.StorePath {
	t.Helper()
	path, err := nix.ParseBaseName(strings.Repeat("0", 32) + "-nixos-system-web-1-25.05")
	must(t, err)
	return path
}

// fields are the names of a type's fields in JSON.
func fields(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{"name": "web-1", "health": {"soak": "0s", "required": [{"command": ["true"]}]}, "spread": "2d"}`))
	must(t, err)
	if c.Health.Soak != 0 || !c.Health.Connectivity || c.Spread.String() != "48h0m0s" || c.Profile != Defaults().Profile {
		t.Errorf("got %+v", c)
	}
	if check := c.Health.Required[0]; check.Name != "true" || check.Timeout.String() != "30s" {
		t.Errorf("got the check %+v", check)
	}
	for _, test := range []struct{ config, want string }{
		{`{"soak": "1s"}`, `unknown field "soak"`},
		{`{"mode": "reboot"}`, `there is no mode "reboot"`},
		{`{"mode": "boot"}`, `reboot says never`},
		{`{"reboot": "always"}`, `the machine can't be rebooted by "always"`},
		{`{"reboot_command": []}`, `reboot_command is empty`},
		{`{"units": "upstart"}`, `units can't be kept by "upstart"`},
		{`{"spread": "1"}`, `"1" is not a duration`},
		{`{"spread": "-1s"}`, `"-1s" is not a duration`},
		{`{"profile": "system"}`, `"system" is not an absolute path`},
		{`{"health": {"wanted": [{"name": "web"}]}}`, `a health check has no command`},
		{`{"health": {"required": [{"command": ["true"]}], "wanted": [{"command": ["true"]}]}}`, `there are two health checks called "true"`},
	} {
		if _, err := ParseConfig([]byte(test.config)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: want an error with %q, got %v", test.config, test.want, err)
		}
	}
}

// What is told in the settings is told again in the state, by whoever goes back.
func TestConfigIsKept(t *testing.T) {
	c, err := ParseConfig([]byte(`{"name": "web-1", "mode": "test", "spread": "90s", "boot": []}`))
	must(t, err)
	dir := t.TempDir()
	must(t, (&State{Trial: &Trial{ID: ID{1, somePath(t)}, Config: c}}).write(dir))
	s, err := ReadState(dir)
	must(t, err)
	if !reflect.DeepEqual(s.Trial.Config, c) {
		t.Errorf("want %+v, got %+v", c, s.Trial.Config)
	}
}
