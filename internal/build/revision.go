package build

import (
	"bufio"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/regular"
)

// revision returns the git commit that is checked out in the directory dir, or
// "" if dir is not the top of a checkout or its commit can't be told. It reads
// git's files itself: there may be no git where we run, and a checkout that
// belongs to another user, as Concourse's do, makes git refuse.
func revision(dir string) string {
	gitDir := filepath.Join(dir, ".git")
	if target, ok := strings.CutPrefix(firstLine(gitDir), "gitdir: "); ok {
		gitDir = resolveIn(dir, target) // a worktree or a submodule
	}
	common := gitDir
	if target := firstLine(filepath.Join(gitDir, "commondir")); target != "" {
		common = resolveIn(gitDir, target)
	}
	value := firstLine(filepath.Join(gitDir, "HEAD"))
	for range maxSymrefs {
		if commit.MatchString(value) {
			return value
		}
		ref, ok := strings.CutPrefix(value, "ref: ")
		if !ok || !filepath.IsLocal(ref) {
			return ""
		}
		value = firstLine(filepath.Join(gitDir, ref))
		if value == "" {
			value = firstLine(filepath.Join(common, ref))
		}
		if value == "" {
			value = packedRef(filepath.Join(common, "packed-refs"), ref)
		}
	}
	return ""
}

// commit matches a commit's name: a SHA-1, or a SHA-256.
var commit = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)

// maxSymrefs is git's own limit on references to references.
const maxSymrefs = 5

// RevisionOf returns the commit of the checkout that holds the named file or
// directory of the directory sources. If none does, but exactly one of the
// inputs is a checkout, the commit is that one's.
func RevisionOf(sources, name string) string {
	for dir := filepath.Clean(name); filepath.IsLocal(dir); dir = filepath.Dir(dir) {
		if r := revision(filepath.Join(sources, dir)); r != "" {
			return r
		}
		if dir == "." {
			break
		}
	}
	inputs, _ := filepath.Glob(filepath.Join(sources, "*", ".git"))
	if len(inputs) != 1 {
		return ""
	}
	return revision(filepath.Dir(inputs[0]))
}

// packedRef looks ref up in a file of lines "<commit> <ref>".
func packedRef(file, ref string) string {
	f, err := regular.OpenFile(file, maxGitFile)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, packed, _ := strings.Cut(lines.Text(), " "); packed == ref {
			return name
		}
	}
	return ""
}

// maxGitFile bounds the files of git that are read, in bytes. (packed-refs of a
// hundred thousand branches and tags have 10 MB.)
const maxGitFile = 64 << 20

// firstLine returns the first line of a file, "" if there is none.
func firstLine(file string) string {
	f, err := regular.OpenFile(file, maxGitFile)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	return strings.TrimSpace(lines.Text())
}

// resolveIn is the path that target means in a file of the directory dir.
func resolveIn(dir, target string) string {
	if filepath.IsAbs(target) {
		return target
	}
	return filepath.Join(dir, target)
}

// RevisionAbove returns the commit of the checkout that holds a file or directory
// of this machine; "" if none does.
func RevisionAbove(name string) string {
	for dir := filepath.Clean(name); ; dir = filepath.Dir(dir) {
		if r := revision(dir); r != "" || dir == filepath.Dir(dir) {
			return r
		}
	}
}
