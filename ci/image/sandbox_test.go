package image_test

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// testSandbox has builders look around in the step of a put: those of a resource
// type that is privileged are in Nix's sandbox, although the image's nix.conf
// turns it off. Those of any other are not, and the log says so.
func testSandbox(t *testing.T, s story, full image) {
	sources := nixtest.Sample(t)
	if err := os.Chmod(filepath.Dir(sources), 0o711); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(sources, "config", "look.nix"), `{ name }: (import ./lib.nix).build name { } ''
  for file in /opt/resource/out /etc/nix/nix.conf /tmp/build/put/config; do
    [ ! -e $file ] || echo "sees $file" >&2
  done
  [ ! -e /proc/1/cmdline ] || tr '\0' ' ' < /proc/1/cmdline >&2
  mkdir $out
''
`)
	privileged := full
	privileged.privileged = true
	const note = "builders run as users of their own, and not in Nix's sandbox, which "
	for _, test := range []struct {
		name      string
		of        image
		config    string
		sandboxed bool
		says      string
	}{
		{"privileged", privileged, "", true, ""},
		{"unprivileged", full, "", false, note + "this container doesn't permit: "},
		{"unsandboxed", privileged, "sandbox = false", false, note + "nix_config or NIX_CONFIG turns off: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := s
			s.t = t
			if test.of.privileged {
				chown(t, sources, root, 0)
			} else {
				giveToRoot(t, sources)
			}
			source := maps.Clone(s.with("look", "signing_key", s.key.Secret))
			source["nix_config"] = test.config
			request := map[string]any{
				"source": source,
				"params": map[string]any{"file": "config/look.nix", "arguments": map[string]string{"name": test.name}},
			}
			_, said, err := s.run(test.of, test.of.env, "out", "/tmp/build/put", request, mount{filepath.Join(sources, "config"), "/tmp/build/put/config"})
			if err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			for _, seen := range []string{"sees /opt/resource/out", "sees /etc/nix/nix.conf", "sees /tmp/build/put/config", "sleep 600"} {
				if strings.Contains(said, seen) == test.sandboxed {
					t.Errorf("want a builder that is in a sandbox: %v, and %q in", test.sandboxed, seen)
				}
			}
			if test.says == "" && strings.Contains(said, "builders run") || !strings.Contains(said, test.says) {
				t.Errorf("want %q in the log", test.says)
			}
			t.Logf("out:\n%s", said)
		})
	}
}
