package nixtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildPrograms builds packages of this repository as they are shipped, for an
// architecture or, "", that of this machine. Output is as for go build: a directory
// if it ends in a slash.
//
// It looks at each file that it builds them from. Without that, go test would give
// the result of earlier programs for those of today: what a test starts is not part of
// what go test knows it by. Only tests can call it: what TestMain looks at is not seen.
func BuildPrograms(output, arch string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", output}, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+arch)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	return lookAtSources(packages)
}

// lookAtSources looks at what go test is to compare before it takes an earlier result:
// the names of the files of our packages, their sizes and times.
func lookAtSources(packages []string) error {
	list := exec.Command("go", append([]string{"list", "-deps", "-f",
		"{{if .Module}}{{if .Module.Main}}{{.Dir}}{{range .GoFiles}}\t{{.}}{{end}}{{range .EmbedFiles}}\t{{.}}{{end}}{{end}}{{end}}"}, packages...)...)
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("listing the sources of the programs: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		dir, files, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if dir == "" {
			continue
		}
		if _, err := os.ReadDir(dir); err != nil {
			return err
		}
		for _, file := range strings.Split(files, "\t") {
			if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
				return err
			}
		}
	}
	return nil
}
