package nixcmd

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Revision returns the git commit of the sources that i is evaluated from: of a
// flake, the one that Nix says it is at; of a file, that of the checkout that it is
// tracked in. Where what lies there is not what was committed, the commit ends in
// "-dirty", as Nix says it. Revision returns "" where there is no commit, or it
// can't be told for whatever reason.
//
// It is that of now. Whoever wants to say what was evaluated asks before and after.
func (s *Store) Revision(ctx context.Context, i Installable) string {
	s, untrust, err := s.trusting(i)
	if err != nil {
		return ""
	}
	defer untrust()
	if i.Flake == "" {
		return s.fileRevision(ctx, i.File)
	}
	if s.checkLock(ctx, i) != nil { // else Nix would fetch the inputs, to lock them
		return ""
	}
	var stdout bytes.Buffer
	err = s.runEvaluation(ctx, &stdout, nil, "nix",
		"--extra-experimental-features", "nix-command flakes", "flake", "metadata", "--json", "--no-update-lock-file", "--", i.Flake)
	var metadata struct{ Revision, DirtyRevision string }
	if err != nil || json.Unmarshal(stdout.Bytes(), &metadata) != nil {
		return ""
	}
	return cmp.Or(metadata.Revision, metadata.DirtyRevision)
}

// fileRevision is Revision of a file. Evaluating it reads whatever lies beside it,
// so files that git doesn't know make the checkout dirty, but for those that it is
// to ignore.
func (s *Store) fileRevision(ctx context.Context, name string) string {
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return ""
	}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		name = filepath.Join(name, "default.nix")
	}
	// A checkout further up, such as one of /etc or of somebody's home, may know
	// nothing of the file.
	if _, err := s.git(ctx, filepath.Dir(name), "ls-files", "--error-unmatch", "--", filepath.Base(name)); err != nil {
		return ""
	}
	status, err := s.git(ctx, filepath.Dir(name), "status", "--porcelain=v2", "--branch", "--untracked-files=normal")
	head := headLine.FindStringSubmatch(status)
	if err != nil || head == nil {
		return ""
	}
	for line := range strings.Lines(status) {
		if !strings.HasPrefix(line, "# ") {
			return head[1] + "-dirty"
		}
	}
	return head[1]
}

// headLine is what git status says of the commit, a SHA-1 or a SHA-256.
var headLine = regexp.MustCompile(`(?m)^# branch\.oid ([0-9a-f]{40}|[0-9a-f]{64})$`)

// gitPatience is how long git may take. What an earlier step has left may be
// anything, such as a pipe in place of a file, for which git would wait.
var gitPatience = time.Minute

// git runs git in a directory, and returns what it prints. It writes nothing there,
// and doesn't start the program that a checkout's settings may name to watch files.
func (s *Store) git(ctx context.Context, dir string, args ...string) (string, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, gitPatience)
	defer cancel()
	var stdout bytes.Buffer
	err := run(ctx, s.env, &stdout, io.Discard, "git",
		append([]string{"--no-optional-locks", "--literal-pathspecs", "-c", "core.fsmonitor=false", "-C", dir}, args...)...)
	return stdout.String(), err
}
