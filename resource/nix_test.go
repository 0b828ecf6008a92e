package resource

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

// sshKeyText makes a private key of ssh; a passphrase protects it.
func sshKeyText(t *testing.T, passphrase string) (private, public string) {
	t.Helper()
	publicKey, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	sshPublic, err := ssh.NewPublicKey(publicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), string(ssh.MarshalAuthorizedKey(sshPublic))
}

func TestSourceOfNix(t *testing.T) {
	key, _ := sshKeyText(t, "")
	for _, tokens := range []any{
		map[string]string{"gitlab.com": "PAT:b", "github.com": "a\n"},
		"github.com=a gitlab.com=PAT:b",
		[]string{"github.com=a", "gitlab.com=PAT:b"},
	} {
		_, built, err := decodeTestSource(t, map[string]any{
			"require_sigs": false, "access_tokens": tokens, "ssh_key": strings.TrimSpace(key), "netrc": "machine example.org",
			"builders": []string{"ssh-ng://a x86_64-linux", "ssh-ng://b"}, "nix_config": "cores = 2\n\n# as ever\n!include /etc/nix/more.conf\n",
			"ssh_known_hosts": "example.org ssh-ed25519 AAAA",
		})
		if err != nil {
			t.Fatal(err)
		}
		got := built.Settings
		if want := "github.com=a gitlab.com=PAT:b"; got.AccessTokens != want {
			t.Errorf("%v: got tokens %q, want %q", tokens, got.AccessTokens, want)
		}
		if got.Netrc != "machine example.org" || got.Builders != "ssh-ng://a x86_64-linux\nssh-ng://b" || got.SSHKey.IsZero() || got.KnownHosts == "" || !strings.HasPrefix(got.Lines, "cores = 2\n") {
			t.Errorf("the rest is not as it was written: builders %q, lines %q", got.Builders, got.Lines)
		}
		if printed := fmt.Sprintf("%v %+v %#v %s", got, got, got, got.SSHKey); strings.Contains(printed, "PAT:b") || strings.Contains(printed, "seed") {
			t.Errorf("a secret prints: %s", printed)
		}
	}
}

// What is wrong with a secret is said, and the secret isn't.
func TestSourceOfNixRefuses(t *testing.T) {
	key, public := sshKeyText(t, "")
	locked, _ := sshKeyText(t, "s3cret")
	for _, test := range []struct {
		key   string
		value any
		want  []string
	}{
		{"ssh_key", locked, []string{
			"error: source.ssh_key: this key is protected by a passphrase, and there is nobody to type it",
			"hint: ssh-keygen -p -N '' -f key takes it off a copy; keep that in the credential manager alone"}},
		{"ssh_key", public, []string{
			"error: source.ssh_key: this is a public key of ssh, where the private key belongs",
			"hint: the private one is in the file without .pub"}},
		{"ssh_key", "/root/.ssh/id_ed25519", []string{
			"error: source.ssh_key: this is the name of a file, where the key itself belongs",
			"hint: give the key itself: ssh_key: ((ssh_key))"}},
		{"ssh_key", strings.Join(strings.Fields(key), " "), []string{
			"error: source.ssh_key: this private key of ssh is damaged",
			"hint: its lines must stay lines: in YAML, write it after ssh_key: |"}},
		{"ssh_key", "s3cret", []string{
			"error: source.ssh_key: this is not a private key of ssh",
			"hint: make one with: ssh-keygen -t ed25519 -N '' -f key"}},
		{"access_tokens", "s3cret", []string{
			"error: source.access_tokens: number 1 is not a token with its host",
			"hint: write them as an object, github.com: ((github.token)), or as in nix.conf: github.com=…"}},
		{"access_tokens", map[string]any{"github.com": 5}, []string{
			"error: source.access_tokens.github.com: want a string, got a number",
			"error: source.access_tokens: number 1 is not a token with its host",
			"hint: write them as an object, github.com: ((github.token)), or as in nix.conf: github.com=…"}},
		{"store", "https://cache.example.org", []string{
			"error: source.store: want the store of another machine, ssh-ng://user@host",
			"hint: which store of this machine is used, NIX_REMOTE says in its environment; the cache that is pushed to is named by cache"}},
		{"nix_config", "cores = 2\naccess-tokens s3cret", []string{
			"error: source.nix_config: line 2 is not one of a nix.conf",
			"hint: write it as there: name = value"}},
	} {
		_, _, err := decodeTestSource(t, map[string]any{"require_sigs": false, test.key: test.value})
		if diff := cmp.Diff(test.want, told(err)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Error("the error quotes a secret")
		}
	}
}
