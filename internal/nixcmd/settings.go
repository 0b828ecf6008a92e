package nixcmd

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Settings are what Nix is told besides what nix.conf and the environment of
// this machine say. They reach it through a pipe that is empty once Nix has read
// it: not in arguments, in the environment or in a file, where builders may
// look. (What Nix has in memory, it has read; see Isolation.)
type Settings struct {
	Substituters []string // URLs, besides the machine's own
	PublicKeys   nix.Keys // trusted besides the machine's own

	NoSubstituters bool // of the machine's own: Substituters are all there are

	Builders string // as Nix has it: a machine on each line, or between semicolons
	Lines    string // of nix.conf; they have the last word
	Store    string // the URL, ssh-ng://…, of the store to build in and to read; empty for this machine's

	// Secrets that evaluation may use to fetch what it evaluates. Builds get
	// none of them, but for SSHKey where they run on other machines, and Netrc
	// where their builders are kept apart from Nix.
	AccessTokens string // as Nix has it: github.com=… gitlab.com=PAT:…
	Netrc        string // the text of a netrc file
	SSHKey       SSHKey

	KnownHosts string // the text of ssh's known_hosts file; empty for the machine's own
}

// Format keeps the secrets out of every message, whatever the verb.
func (s Settings) Format(f fmt.State, _ rune) { fmt.Fprint(f, "settings of Nix") }

// hasSecrets says whether there is anything that a builder must not see.
func (s *Settings) hasSecrets() bool {
	return s.AccessTokens != "" || s.Netrc != "" || !s.SSHKey.IsZero()
}

// A purpose is what a process of Nix is started for. It decides what it is
// told.
type purpose int

const (
	toAsk            purpose = iota // what this machine has
	toFetch                         // what substituters have; nothing is built
	toBuild                         // and whatever else may run builders
	toBuildThere                    // in the remote store
	toEvaluate                      // what can't look at the machine
	toEvaluateFreely                // what can
)

// conf is what a process of Nix gets as a configuration file, and as netrc.
func (s *Store) conf(why purpose, i Isolation) (conf, netrc string) {
	var b strings.Builder
	set := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s = %s\n", name, strings.Join(strings.Fields(value), " "))
		}
	}
	o := &s.settings
	if o.NoSubstituters {
		b.WriteString("substituters =\n")
	}
	set("extra-substituters", strings.Join(o.Substituters, " "))
	keys := make([]string, len(o.PublicKeys))
	for i, key := range o.PublicKeys {
		keys[i] = key.String()
	}
	set("extra-trusted-public-keys", strings.Join(keys, " "))
	set("builders", strings.ReplaceAll(strings.TrimSpace(o.Builders), "\n", " ; "))
	b.WriteString(i.lines)

	evaluates := why == toEvaluate || why == toEvaluateFreely
	if evaluates {
		set("extra-access-tokens", o.AccessTokens)
		if o.hasSecrets() && !i.apart() {
			set("allow-import-from-derivation", "false")
		}
	}
	// The file is read again and again: it is nothing for an expression that
	// could read it, nor for a builder that could, nor for another process.
	if why == toEvaluate || why == toBuild && i.apart() && !i.Daemon {
		netrc = o.Netrc
	}
	if netrc != "" {
		set("netrc-file", fmt.Sprintf("/proc/self/fd/%d", netrcFD))
	}

	b.WriteString(o.written())
	return b.String(), netrc
}

// written are the lines of nix.conf that have the last word: those of the
// environment, and then what the user has written down.
func (s *Settings) written() string {
	var b strings.Builder
	for _, lines := range []string{os.Getenv("NIX_CONFIG"), s.Lines} {
		if lines != "" {
			b.WriteString(strings.TrimSuffix(lines, "\n") + "\n")
		}
	}
	return b.String()
}

// logsIn says whether a process may have to log in to another machine by ssh.
func (s *Settings) logsIn(why purpose) bool {
	switch why {
	case toEvaluate, toEvaluateFreely, toBuildThere:
		return true
	case toBuild:
		return s.Builders != "" || strings.Contains(s.Lines, "builders")
	}
	return false
}

// direct are the variables that keep a proxy from between Nix and substituters
// on this machine.
func (s *Settings) direct() []string {
	var hosts []string
	for _, substituter := range s.Substituters {
		if u, err := url.Parse(substituter); err == nil && !slices.Contains(hosts, u.Hostname()) && net.ParseIP(u.Hostname()).IsLoopback() {
			hosts = append(hosts, u.Hostname())
		}
	}
	if len(hosts) == 0 {
		return nil
	}
	var env []string
	for _, name := range []string{"no_proxy", "NO_PROXY"} {
		before := os.Getenv(name)
		if before == "" {
			before = os.Getenv(strings.ToUpper(name)) // which counts where the other is missing
		}
		env = append(env, name+"="+strings.Trim(before+","+strings.Join(hosts, ","), ","))
	}
	return env
}

// The descriptors that a process of Nix may get.
const (
	confFD  = 3 // the reading end of a pipe
	netrcFD = 4 // a file without a name
)

// userConfFiles is what NIX_USER_CONF_FILES has to say: our own before those
// that Nix would read, since of several it believes the first.
func userConfFiles() string {
	files, ok := os.LookupEnv("NIX_USER_CONF_FILES")
	if !ok {
		home := os.Getenv("XDG_CONFIG_HOME")
		if home == "" {
			home = filepath.Join(os.Getenv("HOME"), ".config")
		}
		dirs := os.Getenv("XDG_CONFIG_DIRS")
		if dirs == "" {
			dirs = "/etc/xdg"
		}
		var list []string
		for _, dir := range append([]string{home}, filepath.SplitList(dirs)...) {
			list = append(list, filepath.Join(dir, "nix", "nix.conf"))
		}
		files = strings.Join(list, ":")
	}
	return strings.TrimSuffix(fmt.Sprintf("/proc/self/fd/%d:%s", confFD, files), ":")
}
