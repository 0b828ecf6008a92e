package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// tarZstd is how long tar and zstd take to write the Debian system as one file,
// in seconds. The file stays, for zstdD.
func (l *lab) tarZstd(ctx context.Context) (float64, error) {
	system, err := l.system(ctx, "", 0)
	if err != nil {
		return 0, err
	}
	env, err := l.env(system.store)
	if err != nil {
		return 0, err
	}
	paths, err := l.output(ctx, env, filepath.Join(l.nix, "nix-store"), "--query", "--requisites", system.root.String())
	if err != nil {
		return 0, err
	}
	list := filepath.Join(l.scratch, "requisites")
	if err := os.WriteFile(list, []byte(strings.ReplaceAll(paths, "/nix/", "nix/")), 0o644); err != nil {
		return 0, err
	}
	return l.pipeline(ctx, fmt.Sprintf("tar -C '%s' -T '%s' -c | %s -q -T%d -3 > '%s'", system.store, list, l.zstd(), runtime.NumCPU(), l.archive()))
}

// zstdD is how long zstd takes to unpack that file.
func (l *lab) zstdD(ctx context.Context) (float64, error) {
	if _, err := l.tarZstd(ctx); err != nil {
		return 0, err
	}
	return l.pipeline(ctx, fmt.Sprintf("%s -q -d < '%s' > /dev/null", l.zstd(), l.archive()))
}

func (l *lab) archive() string { return filepath.Join(l.scratch, "system.tar.zst") }

// zstd is the program, for a shell: that of ci/get if it has got one.
func (l *lab) zstd() string {
	own := filepath.Join(l.repo, ".cache", "zstd", "bin", "zstd")
	if _, err := os.Stat(own); err == nil {
		return "'" + own + "'"
	}
	return "zstd"
}

// pipeline is the median time that a shell takes for its text, of three runs, in
// seconds. The same text is not run again.
func (l *lab) pipeline(ctx context.Context, text string) (float64, error) {
	if seconds, ok := l.limits[text]; ok {
		return seconds, nil
	}
	var seconds []float64
	for range 3 {
		used, _, err := measure(ctx, command{args: []string{"sh", "-c", text}, env: os.Environ()})
		if err != nil {
			return 0, err
		}
		seconds = append(seconds, used.Seconds)
	}
	l.limits[text] = median(seconds)
	return l.limits[text], nil
}
