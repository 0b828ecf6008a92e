package command

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// The README has an example of each subcommand, and each says what it is for.
func TestReadmeShowsEachCommand(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range newRoot(new(app)).Commands() {
		if !strings.Contains(string(readme), "| `nixos-closure "+cmd.Name()) {
			t.Errorf("the README has no row for %s", cmd.Name())
		}
		if cmd.Short == "" {
			t.Errorf("%s doesn't say what it is for", cmd.Name())
		}
	}
}

// Other users of a machine see a command's arguments.
func TestSecretsHaveNoFlags(t *testing.T) {
	secrets := []string{"access-key-id", "secret-access-key", "session-token", "signing-key", "pointer-signing-key", "netrc", "bearer-token"}
	root := newRoot(new(app))
	for _, cmd := range append(root.Commands(), root) {
		for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
			flags.VisitAll(func(f *pflag.Flag) {
				if slices.Contains(secrets, f.Name) {
					t.Errorf("%s has --%s", cmd.Name(), f.Name)
				}
			})
		}
	}
}
