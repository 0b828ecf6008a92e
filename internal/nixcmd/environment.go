package nixcmd

import (
	"slices"
	"strings"
)

// environment picks from our environment what Nix and the programs that it runs
// (ssh, git) may know. All else stays here: above all AWS_…, which holds a
// cache's credentials, and whatever a pipeline has put there. NIX_CONFIG, which
// may hold an access token, goes another way (Store.conf).
func environment(ours []string) []string {
	var theirs []string
	for _, variable := range ours {
		name, _, _ := strings.Cut(variable, "=")
		if name == "NIX_CONFIG" {
			continue
		}
		if slices.Contains(passed, name) || slices.ContainsFunc(passedPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			theirs = append(theirs, variable)
		}
	}
	return theirs
}

var passed = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "TERM", "NO_COLOR",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "SSH_AUTH_SOCK",
	"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
	"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
}

var passedPrefixes = []string{"NIX_", "XDG_", "LC_"}
