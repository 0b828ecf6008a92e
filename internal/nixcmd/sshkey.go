package nixcmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// An SSHKey is a private key of ssh. It never prints.
type SSHKey struct{ key any } // as golang.org/x/crypto/ssh has it

// ParseSSHKey parses the text of a private key, as ssh-keygen writes it. Its
// errors don't quote it.
func ParseSSHKey(text string) (SSHKey, error) {
	key, err := ssh.ParseRawPrivateKey([]byte(strings.TrimSpace(text) + "\n"))
	if err == nil {
		return SSHKey{key}, nil
	}
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return SSHKey{}, hint.With(errors.New("this key is protected by a passphrase, and there is nobody to type it"),
			"ssh-keygen -p -N '' -f key takes it off a copy; keep that in the credential manager alone")
	}
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	switch {
	case strings.HasPrefix(first, "ssh-") || strings.HasPrefix(first, "ecdsa-"):
		return SSHKey{}, hint.With(errors.New("this is a public key of ssh, where the private key belongs"),
			"the private one is in the file without .pub")
	case strings.HasPrefix(first, "/") || strings.HasPrefix(first, "~") || strings.HasPrefix(first, "./"):
		return SSHKey{}, hint.With(errors.New("this is the name of a file, where the key itself belongs"),
			"give the key itself: %s", hint.Term("ssh_key: ((ssh_key))"))
	case strings.HasPrefix(first, "-----BEGIN") && strings.Contains(first, " PRIVATE KEY"):
		return SSHKey{}, hint.With(errors.New("this private key of ssh is damaged"),
			"its lines must stay lines: in YAML, write it after ssh_key: |")
	}
	return SSHKey{}, hint.With(errors.New("this is not a private key of ssh"), "make one with: ssh-keygen -t ed25519 -N '' -f key")
}

// IsZero says whether there is no key.
func (k SSHKey) IsZero() bool { return k.key == nil }

// Format keeps the key out of every message, whatever the verb.
func (k SSHKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, "private key of ssh") }

// checkKeyFiles refuses remote builders whose key can't be used: ssh would pass
// over it, and say no more than that the login was denied.
func checkKeyFiles(builders string) error {
	machines := strings.FieldsFunc(builders, func(r rune) bool { return r == '\n' || r == ';' })
	for _, machine := range machines {
		fields := strings.Fields(machine)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") || strings.HasPrefix(fields[0], "@") {
			continue
		}
		var files []string
		if len(fields) > 2 && fields[2] != "-" {
			files = append(files, fields[2])
		}
		if file := storeParameter(fields[0], "ssh-key"); file != "" {
			files = append(files, file)
		}
		for _, file := range files {
			if err := checkKeyFile(file); err != nil {
				return fmt.Errorf("the key of the builder %s: %w", withoutParameters(fields[0]), err)
			}
		}
	}
	return nil
}

// checkKeyFile says whether ssh would use a file as a key.
func checkKeyFile(name string) error {
	if !filepath.IsAbs(name) {
		return hint.With(fmt.Errorf("%s is not an absolute path", name), "or give the key itself as ssh_key, and write - in place of the file")
	}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hint.With(fmt.Errorf("there is no file %s", name), "give the key itself as ssh_key, and write - in place of the file")
	case err != nil:
		return err
	case info.Mode().Perm()&0o077 != 0:
		return hint.With(fmt.Errorf("%s has mode %04o, so others may read it, and ssh doesn't use it", name, info.Mode().Perm()), "chmod 600 %s", name)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if _, err := ParseSSHKey(string(text)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// storeParameter is a parameter of a store's URL, or empty.
func storeParameter(store, name string) string {
	_, query, _ := strings.Cut(store, "?")
	for parameter := range strings.SplitSeq(query, "&") {
		if value, ok := strings.CutPrefix(parameter, name+"="); ok {
			return value
		}
	}
	return ""
}

func withoutParameters(store string) string {
	base, _, _ := strings.Cut(store, "?")
	return base
}
