package blob

import (
	"fmt"
	"strings"
)

// netrcFor returns login and password of the first entry for host, or of a
// default entry before it, in the text of a netrc file; they are empty if there
// is none. That is what Nix sends with the same file. An error names a line and
// none of its words.
func netrcFor(host, netrc string) (login, password string, err error) {
	var (
		ours  bool   // the entry is for host
		macro bool   // a macro's definition goes on up to an empty line
		key   string // the next word is its value
	)
	number := 0
	for line := range strings.Lines(netrc) {
		number++
		words := strings.Fields(line)
		if macro {
			macro = len(words) > 0
			continue
		}
		for _, word := range words {
			switch {
			case key == "machine":
				ours = strings.EqualFold(word, host)
			case key == "login" && ours:
				login = word
			case key == "password" && ours:
				password = word
			}
			if key != "" {
				key = ""
				continue
			}
			if ours && (word == "machine" || word == "default") {
				return login, password, nil
			}
			switch {
			case word == "default":
				ours = true
			case word == "machine", word == "login", word == "password", word == "account":
				key = word
			case word == "macdef":
				macro = true
			case !strings.HasPrefix(word, "#"):
				return "", "", fmt.Errorf("line %d of netrc has something else than machine, default, login, password, account or macdef", number)
			}
			if macro || strings.HasPrefix(word, "#") {
				break
			}
		}
	}
	return login, password, nil
}
