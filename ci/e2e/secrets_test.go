package e2e_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// secretsOf returns what a source has that nobody may learn (promise 8).
func secretsOf(source map[string]any) (secrets []string) {
	for key, value := range source {
		switch key {
		case "signing_key": // the name of the key is no secret
			_, secret, _ := strings.Cut(value.(string), ":")
			secrets = append(secrets, secret)
		case "secret_access_key", "session_token", "bearer_token":
			secrets = append(secrets, value.(string))
		case "netrc":
			_, password, _ := strings.Cut(value.(string), "password ")
			secrets = append(secrets, strings.TrimSpace(password))
		case "access_tokens":
			for _, token := range value.(map[string]string) {
				secrets = append(secrets, token)
			}
		case "ssh_key":
			secrets = append(secrets, strings.Split(value.(string), "\n")[1:3]...)
		}
	}
	return secrets
}

// errLeak is an error of all who found a secret.
var errLeak = errors.New("a secret")

// secretIn is an error if the text has one of the program's secrets.
func (p *program) secretIn(text string) error {
	for _, secret := range p.secrets {
		if strings.Contains(text, secret) {
			return fmt.Errorf("%w, which begins with %.10q", errLeak, secret)
		}
	}
	return nil
}

// secretBelow looks for the secrets in all files below the directories, and in
// their names.
func (p *program) secretBelow(dirs ...string) error {
	var leaks []error
	for _, dir := range dirs {
		leaks = append(leaks, filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			if leak := p.secretIn(name + string(text)); leak != nil {
				return fmt.Errorf("%s has %w", name, leak)
			}
			return nil
		}))
	}
	return errors.Join(leaks...)
}

// watch looks at the arguments and environments of a running program and of all
// its children, as everybody may who runs as the same user, until the function
// that it returns is called, and returns what was found.
func (p *program) watch() func() error {
	over, found := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			for _, pid := range family(p.Process.Pid) {
				for _, file := range []string{"cmdline", "environ"} {
					text, _ := os.ReadFile(filepath.Join("/proc", pid, file)) // it may be over, or protected
					if leak := p.secretIn(string(text)); leak != nil {
						found <- fmt.Errorf("process %s has in its %s %w", pid, file, leak)
						return
					}
				}
			}
			select {
			case <-over:
				found <- nil
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() error {
		close(over)
		return <-found
	}
}

// family is a process and all that descend from it.
func family(pid int) []string {
	parents := map[string]string{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it is over
		}
		_, after, _ := strings.Cut(string(text), ") ") // pid (name) state parent …
		if fields := strings.Fields(after); len(fields) > 1 {
			parents[filepath.Base(filepath.Dir(file))] = fields[1]
		}
	}
	members := []string{strconv.Itoa(pid)}
	for i := 0; i < len(members); i++ {
		for child, parent := range parents {
			if parent == members[i] {
				members = append(members, child)
			}
		}
	}
	return members
}
