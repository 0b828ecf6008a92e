package blob

import (
	"errors"
	"fmt"
	"strings"
)

// netrcFor returns login and password of the first entry for host, or of a
// default entry before it, in the text of a netrc file; they are empty if there
// is none. That is what Nix sends with the same file. An error names a line and
// none of its words. The form is curl's (lib/netrc.c), with which Nix reads it.
func netrcFor(host, netrc string) (login, password string, err error) {
	var (
		ours  bool   // the entry is for host
		macro bool   // a macro's definition goes on up to an empty line
		key   string // the next word is its value
	)
	number := 0
	for line := range strings.Lines(netrc) {
		number++
		if macro {
			macro = strings.Trim(line, " \t\r\n") != ""
			continue
		}
		words, err := netrcWords(line)
		if err != nil {
			return "", "", fmt.Errorf("line %d of netrc: %w", number, err)
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
			word = strings.ToLower(word) // keywords may be in any case
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
			default:
				return "", "", fmt.Errorf("line %d of netrc has something else than machine, default, login, password, account or macdef", number)
			}
			if macro {
				break
			}
		}
	}
	return login, password, nil
}

// netrcWords returns the words of a line up to a comment. One in double quotes may
// have blanks, and \n, \r, \t or any other character behind a backslash.
func netrcWords(line string) (words []string, err error) {
	line = strings.TrimRight(line, "\r\n")
	for {
		line = strings.TrimLeft(line, " \t")
		if line == "" || line[0] == '#' {
			return words, nil
		}
		if line[0] != '"' {
			end := strings.IndexAny(line+" ", " \t")
			words, line = append(words, line[:end]), line[end:]
			continue
		}
		var word strings.Builder
		i := 1
		for ; i < len(line) && line[i] != '"'; i++ {
			c := line[i]
			if c == '\\' && i+1 < len(line) {
				i++
				if c = line[i]; c == 'n' || c == 'r' || c == 't' {
					c = map[byte]byte{'n': '\n', 'r': '\r', 't': '\t'}[c]
				}
			}
			word.WriteByte(c)
		}
		if i == len(line) {
			return nil, errors.New("a quoted string has no end")
		}
		words, line = append(words, word.String()), line[i+1:]
	}
}
