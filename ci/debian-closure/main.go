// Debian-closure makes a closure of the size and shape of a real NixOS system,
// to measure with: full of real files, without needing nixpkgs.
//
//	go run ./ci/debian-closure [-units] [-bump PACKAGE,… -salt N] DIR [PACKAGE…]
//
// It downloads Debian packages and writes DIR/default.nix, whose value is a
// nixos-system that refers to them all: one store path for each package, with
// the package's files and references to its dependencies' paths. The default is
// 373 paths, 26,000 files and 1.1 GB of NARs. With -units each systemd unit
// becomes a tiny path of its own, as in NixOS: some 210 more. With -bump these
// packages, and so all that depend on them, are other paths: nginx makes 2 new
// ones, libssl3 80 of 377 MB. Another -salt makes others again.
//
// The builders copy what is in DIR/trees, so that Nix must let them see it: with
// sandbox = true, by sandbox-paths = DIR/trees.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
)

// What a small web server's NixOS would have installed.
const defaultPackages = `systemd systemd-sysv openssh-server nginx postgresql-15 python3 python3-requests python3-psycopg2 git
	linux-image-cloud-` + runtime.GOARCH + ` vim-nox sudo htop tmux rsync gnupg man-db locales iproute2 nftables dnsutils redis-server
	php-fpm gcc`

func main() {
	units := flag.Bool("units", false, "make each systemd unit a path of its own")
	bump := flag.String("bump", "", "make other paths of these `packages`, separated by commas")
	salt := flag.String("salt", "1", "what the other paths differ by")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	names := flag.Args()[1:]
	if len(names) == 0 {
		names = strings.Fields(defaultPackages)
	}
	if err := generate(context.Background(), flag.Arg(0), names, options{*units, strings.Split(*bump, ","), *salt}); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// generate downloads and unpacks what isn't in dir yet, and writes default.nix.
func generate(ctx context.Context, dir string, names []string, opts options) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	debs := filepath.Join(dir, "debs")
	if _, err := os.Stat(debs); err != nil {
		if err := run(ctx, "ci/debs", append([]string{"bookworm", debs, "--install-recommends"}, names...)...); err != nil {
			return err
		}
	}
	packages, err := readPackages(debs)
	if err != nil {
		return err
	}
	trees := filepath.Join(dir, "trees")
	if err := os.MkdirAll(trees, 0o755); err != nil {
		return err
	}
	group, unpacking := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, p := range packages {
		group.Go(func() error { return unpack(unpacking, p.deb, filepath.Join(trees, p.name)) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := run(ctx, "ci/sample/copy", dir); err != nil { // for lib.nix and busybox
		return err
	}
	text, err := expression(sorted(packages), trees, opts)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "default.nix"), []byte(text), 0o644)
}

// unpack unpacks a package's files, whole or not at all.
func unpack(ctx context.Context, deb, tree string) error {
	if _, err := os.Stat(tree); err == nil {
		return nil
	}
	partial := tree + ".partial"
	if err := run(ctx, "dpkg-deb", "-x", deb, partial); err != nil {
		return err
	}
	return os.Rename(partial, tree)
}

func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s: %w", name, err)
	}
	return nil
}
