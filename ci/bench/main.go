// Bench measures this project against Nix, on this machine, and writes what it
// finds into docs/performance.md and docs/performance.svg.
//
//	make bench [BENCH_ROUNDS=3] [BENCH_ROWS=regexp] [BENCH_LONG=1]
//
// Each row of the table is work that both do: our programs out, in and check,
// whole, with everything that Concourse would make them do, and nix copy. They
// take turns, BENCH_ROUNDS times, so that what else the machine does hits both
// alike; each run has a target like the one before, and Nix an empty cache of
// its own.
//
// BENCH_ROWS names the rows to measure, or, with a - before it, those not to
// measure; the others keep what was measured before. -push-xz saves some four
// minutes. BENCH_LONG=1 adds rows whose closures are too large for every day:
// they need 40 GB of disk and ten minutes. All results are kept in
// .cache/bench, with closures and servers, so that the second time begins at
// once.
//
// The closure is made from Debian packages (ci/debian-closure), in a Nix store
// of its own; the servers are real (ci/servers). Everything that is measured
// writes into a tmpfs, if there is one large enough: on ext4 the reuse of inodes
// drowns the rest.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == launchArg {
		os.Exit(launch(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context) error {
	rounds, err := strconv.Atoi(cmp.Or(os.Getenv("BENCH_ROUNDS"), "3"))
	if err != nil || rounds < 1 {
		return errors.New("BENCH_ROUNDS is not a number of rounds")
	}
	pattern, without := strings.CutPrefix(os.Getenv("BENCH_ROWS"), "-")
	wanted, err := regexp.Compile("^(" + cmp.Or(pattern, ".*") + ")$")
	if err != nil {
		return fmt.Errorf("BENCH_ROWS: %w", err)
	}
	repo, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err := os.Stat("ci/bench"); err != nil {
		return errors.New("this has to be run in the project's directory")
	}
	cache := filepath.Join(repo, ".cache", "bench")
	scratch, place, err := scratchDir(cache)
	if err != nil {
		return err
	}
	defer removeTree(scratch)
	l, err := newLab(repo, cache, scratch, filepath.Join(repo, "bin", "linux-"+runtime.GOARCH), os.Stderr)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.get(ctx); err != nil {
		return err
	}
	machine, err := l.describe(ctx, place)
	if err != nil {
		return err
	}
	commit, err := l.commit(ctx)
	if err != nil {
		return err
	}

	saved := filepath.Join(cache, "results.json")
	all := results{}
	if text, err := os.ReadFile(saved); err == nil {
		if err := json.Unmarshal(text, &all); err != nil {
			return fmt.Errorf("reading %s: %w", saved, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rows := l.rows()
	for _, r := range rows {
		if wanted.MatchString(r.name) == without || r.long && os.Getenv("BENCH_LONG") != "1" {
			continue
		}
		got, err := l.race(ctx, r, rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		got.Commit, got.Date = commit, time.Now().UTC().Format(time.DateOnly)
		all[r.name] = got
		text, err := json.MarshalIndent(all, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(saved, text, 0o644); err != nil {
			return err
		}
	}

	const document = "docs/performance.md"
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	if text, err = insert(text, report(rows, all, machine)); err != nil {
		return fmt.Errorf("%s: %w", document, err)
	}
	return errors.Join(os.WriteFile(document, text, 0o644), os.WriteFile("docs/performance.svg", plot(rows, all), 0o644))
}

// race measures a row: ours, Nix, ours, Nix …
func (l *lab) race(ctx context.Context, r row, rounds int) (result, error) {
	fmt.Fprintf(l.log, "\n%s: %s (%s)\n", r.name, r.work, r.where)
	var got result
	if r.limit != nil { // first, as it brings what it reads into memory
		var err error
		if got.Limit, err = r.limit(ctx); err != nil {
			return result{}, err
		}
		fmt.Fprintf(l.log, "  limit %9s\n", clock(got.Limit))
	}
	for round := range cmp.Or(r.rounds, rounds) {
		ours, err := r.ours(ctx, round)
		if err != nil {
			return result{}, err
		}
		l.say("ours", ours)
		got.Ours = append(got.Ours, ours)
		if r.nix == nil {
			continue
		}
		nix, err := r.nix(ctx, round)
		if err != nil {
			return result{}, err
		}
		l.say("nix", nix)
		got.Nix = append(got.Nix, nix)
	}
	return got, nil
}

// say tells a person what was measured.
func (l *lab) say(who string, s sample) {
	fmt.Fprintf(l.log, "  %-5s %9s %7.2f s CPU %5d MiB", who, clock(s.Seconds), s.CPU, s.Peak>>20)
	if s.Stored > 0 {
		fmt.Fprintf(l.log, "  %.1f MB stored", float64(s.Stored)/1e6)
	}
	if s.Requests > 0 {
		fmt.Fprintf(l.log, "  %d requests, %d at once, %d in a row, %v; proxy %.2f s CPU", s.Requests, s.AtOnce, s.InARow, s.Kinds, s.ProxyCPU)
	}
	if s.ServerCPU > 0 {
		fmt.Fprintf(l.log, "  server %.2f s CPU", s.ServerCPU)
	}
	fmt.Fprintln(l.log)
}

// scratchDir makes an empty directory in a tmpfs or, where there is none that is
// large enough, in cache; and says which.
func scratchDir(cache string) (dir, place string, err error) {
	const enough = 8 << 30
	var fs unix.Statfs_t
	var memory unix.Sysinfo_t
	const shm = "/dev/shm"
	if unix.Statfs(shm, &fs) == nil && unix.Sysinfo(&memory) == nil && fs.Type == unix.TMPFS_MAGIC &&
		fs.Bavail*uint64(fs.Bsize) > enough && memory.Totalram*uint64(memory.Unit) > 2*enough {
		dir, err := os.MkdirTemp(shm, "nixos-closure-bench-")
		return dir, "a tmpfs", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", "", err
	}
	dir, err = os.MkdirTemp(cache, "scratch-")
	return dir, "the disk (its tmpfs is too small)", err
}

// commit names the programs' sources; with a + if they are not quite those.
func (l *lab) commit(ctx context.Context) (string, error) {
	commit, err := l.output(ctx, nil, "git", "rev-parse", "--short", "HEAD")
	if err != nil {
		return "", err
	}
	changed, err := l.output(ctx, nil, "git", "status", "--porcelain", "cmd", "resource", "internal", "go.mod")
	if changed != "" {
		commit += "+"
	}
	return commit, err
}

// describe says what is measured on.
func (l *lab) describe(ctx context.Context, place string) (string, error) {
	nix, err := l.output(ctx, nil, filepath.Join(l.nix, "nix"), "--version")
	if err != nil {
		return "", err
	}
	var memory unix.Sysinfo_t
	var kernel unix.Utsname
	if err := errors.Join(unix.Sysinfo(&memory), unix.Uname(&kernel)); err != nil {
		return "", err
	}
	cpu := "?"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if model := regexp.MustCompile(`model name\s*: (.*)`).FindSubmatch(info); model != nil {
			cpu = string(model[1])
		}
	}
	fields := strings.Fields(nix)
	return fmt.Sprintf("Measured on %d cores (%s), %d GiB of memory, Linux %s, Nix %s, what was written went to %s.",
		runtime.NumCPU(), cpu, memory.Totalram*uint64(memory.Unit)>>30, unix.ByteSliceToString(kernel.Release[:]), fields[len(fields)-1], place), nil
}
