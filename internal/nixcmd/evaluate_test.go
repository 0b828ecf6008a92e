package nixcmd

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// evaluate evaluates what can be evaluated.
func evaluate(t *testing.T, store *Store, i Installable) Derivation {
	t.Helper()
	d, err := store.Evaluate(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What a file evaluates to is what nix-instantiate makes of it.
func TestEvaluateFile(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs, sources := n.NewStore(t), nixtest.Sample(t)
		theirs.Setenv(t)
		file := write(t, sources, `{ text ? "x", number ? 1 }: {
			good = build "good" { inherit text number; } "mkdir $out";
			outputs = build "outputs" { outputs = [ "out" "dev" ]; } "mkdir $out $dev";
			"web-1.example.org"."a b" = build "quoted" { } "mkdir $out";
			function = { host ? "web-1", text }: build host { inherit text; } "mkdir $out";
		}`)
		alone := filepath.Join(sources, "config", "alone.nix")
		if err := os.WriteFile(alone, []byte(`(import ./test.nix { }).good`), 0o644); err != nil {
			t.Fatal(err)
		}
		store := open(t, nil)
		for _, test := range []struct {
			installable Installable
			theirs      []string // arguments of nix-instantiate
			output      string
		}{
			{Installable{File: file, Attribute: "good"}, []string{file, "-A", "good"}, "out"},
			{Installable{File: alone}, []string{alone}, "out"},
			{Installable{File: filepath.Join(sources, "config"), Attribute: "web-1"}, []string{filepath.Join(sources, "config"), "-A", "web-1"}, "out"},
			{Installable{File: file, Attribute: "outputs"}, []string{file, "-A", "outputs"}, "out"},
			{Installable{File: file, Attribute: "outputs.dev"}, []string{file, "-A", "outputs.dev"}, "dev"},
			{Installable{File: file, Attribute: `"web-1.example.org"."a b"`}, []string{file, "-A", `"web-1.example.org"."a b"`}, "out"},
			{Installable{File: file, Attribute: "good", Arguments: map[string]string{"text": "--y"}, ExpressionArguments: map[string]string{"number": "1 + 1"}},
				[]string{file, "-A", "good", "--argstr", "text", "--y", "--arg", "number", "1 + 1"}, "out"},
			{Installable{File: file, Attribute: "function", Arguments: map[string]string{"text": "a \"${b}\\n"}, ExpressionArguments: map[string]string{"host": "toString 1 # or 2"}},
				[]string{file, "-A", "function", "--argstr", "text", "a \"${b}\\n", "--arg", "host", "toString 1 # or 2"}, "out"},
			{Installable{File: filepath.Join(sources, "config"), Attribute: "web-1", System: "riscv64-linux"},
				[]string{filepath.Join(sources, "config"), "-A", "web-1", "--option", "system", "riscv64-linux"}, "out"},
		} {
			got, err := store.Evaluate(t.Context(), test.installable)
			if err != nil {
				t.Error(err)
				continue
			}
			drv, _, _ := strings.Cut(theirs.Run(t, "nix-instantiate", test.theirs...), "!")
			outPath := theirs.Run(t, "nix-store", "--query", "--binding", test.output, drv)
			if got.Path.String() != drv || got.Output != test.output || got.OutPath.String() != outPath {
				t.Errorf("%s: got %+v, want output %s of %s, %s", test.installable, got, test.output, drv, outPath)
			}
			if name := theirs.Run(t, "nix-store", "--query", "--binding", "name", drv); got.Name != name {
				t.Errorf("%s: got the name %s, want %s", test.installable, got.Name, name)
			}
			if system := theirs.Run(t, "nix-store", "--query", "--binding", "system", drv); got.System != system {
				t.Errorf("%s: got the system %s, want %s", test.installable, got.System, system)
			}
		}
	})
}

// What is no derivation, and what can't be evaluated, is said in a sentence.
func TestEvaluateErrors(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs, sources := n.NewStore(t), nixtest.Sample(t)
		theirs.Setenv(t)
		file := write(t, sources, `{
			good = build "good" { } "mkdir $out";
			two = [ (build "one" { } "mkdir $out") (build "two" { } "mkdir $out") ];
			outputs = (build "outputs" { outputs = [ "out" "dev" ]; } "mkdir $out $dev").all;
			set = { a = 1; b = 2; };
			none = { };
			text = "just a text";
			function = { host }: host;
			loop = let x = x; in x;
			abort = throw "evaluation says no";
			lines = throw "\nFailed assertions:\n- The ‘fileSystems’ option does not specify your root file system.\n- You must set the option ‘boot.loader.grub.devices’";
			deep = builtins.foldl' (a: b: a + b) 0 (map (x: x + "y") [ 1 2 ]);
		}`)
		for _, test := range []struct{ attribute, err, hint string }{
			{"two", "two of FILE is a list of 2, where one derivation is wanted", "name one derivation, and one output of it, by an attribute"},
			{"outputs", "outputs of FILE is a list of 2, where one derivation is wanted", "name one derivation, and one output of it, by an attribute"},
			{"set", "set of FILE is not a derivation, but a set", "name an attribute in it: a, b"},
			{"none", "none of FILE is not a derivation, but a set", "name an attribute that is one, such as config.system.build.toplevel"},
			{"text", "text of FILE is not a derivation, but a string", "name an attribute that is one, such as config.system.build.toplevel"},
			{"function", "function of FILE is not a derivation, but a function", "name an attribute that is one, such as config.system.build.toplevel"},
			{"loop", "loop of FILE can't be evaluated: infinite recursion encountered at FILE:10:19", ""},
			{"abort", "abort of FILE can't be evaluated: evaluation says no", ""},
			{"lines", "lines of FILE can't be evaluated: Failed assertions:\n- The ‘fileSystems’ option does not specify your root file system.\n- You must set the option ‘boot.loader.grub.devices’", ""},
			{"goood", "goood of FILE can't be evaluated: attribute 'goood' in selection path 'goood' not found", "did you mean good?"},
		} {
			var log bytes.Buffer
			_, err := open(t, &log).Evaluate(t.Context(), Installable{File: file, Attribute: test.attribute})
			want := strings.ReplaceAll(test.err, "FILE", file)
			if err == nil || err.Error() != want {
				t.Errorf("%s: got error\n%v\nwant\n%s\nthe log:\n%s", test.attribute, err, want, &log)
			}
			if diff := cmp.Diff(test.hint, strings.Join(hint.Of(err), "\n")); diff != "" {
				t.Errorf("%s: hints (-want +got)\n%s", test.attribute, diff)
			}
		}
	})
}

// The attributes of a set are listed without a look at what is behind them.
func TestAttributes(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs, sources := n.NewStore(t), nixtest.Fleet(t, "hosts = 3; broken = true;")
		theirs.Setenv(t)
		var log bytes.Buffer
		store := open(t, &log)
		hosts := Installable{Flake: "path:" + filepath.Join(sources, "config"), Attribute: "nixosConfigurations"}
		got, err := store.Attributes(t.Context(), hosts)
		if diff := cmp.Diff([]string{"broken", "web-1", "web-2", "web-3"}, got); err != nil || diff != "" {
			t.Errorf("(-want +got)\n%s%v", diff, err)
		}
		hosts.Attribute = "nixosConfigurations.web-1.config.system.build.toplevel.name"
		if got, err := store.Attributes(t.Context(), hosts); err == nil {
			t.Errorf("a text has the attributes %v", got)
		}
	})
}
