package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

type options struct {
	units bool
	bump  []string
	salt  string
}

const head = `# Written by ci/debian-closure.
let
  inherit (import ./lib.nix) build busybox;
  package = name: tree: salt: references: build name { inherit tree salt references; } ''
    cp -a $tree $out
    chmod -R u+rwX $out
    mkdir -p $out/nix-support
    for path in $references; do echo $path; done > $out/nix-support/propagated
    [ -z "$salt" ] || echo $salt > $out/nix-support/salt
  '';
  unit = name: file: package: build "unit-${name}" { inherit file package; unit = name; } ''
    mkdir $out
    { cat $file; echo "# of $package"; } > $out/$unit
  '';
`

const system = `in build "nixos-system-web-1-25.05" { inherit all kernel systemd; } ''
  mkdir -p $out/bin $out/nix-support
  for path in $all; do echo $path; done > $out/nix-support/propagated
  ln -s $kernel/boot/vmlinuz-* $out/kernel
  ln -s $kernel/lib/modules $out/kernel-modules
  ln -s $systemd $out/systemd
  printf 25.05.20250601.abcdef > $out/nixos-version
  printf x86_64-linux > $out/system
  printf 'loglevel=4 net.ifnames=0' > $out/kernel-params
  printf '#!%s sh\nexec %s/lib/systemd/systemd "$@"\n' $busybox/busybox $systemd > $out/init
  printf '#!%s sh\necho "activating the configuration %s"\n' $busybox/busybox $out > $out/bin/switch-to-configuration
  chmod +x $out/init $out/bin/switch-to-configuration
''
`

// expression is the Nix expression for a system of these packages, whose files
// are in trees. It needs a systemd and a kernel among them.
func expression(nodes []node, trees string, opts options) (string, error) {
	var text strings.Builder
	text.WriteString(head)
	var all []string
	var kernel, systemd string
	for _, n := range nodes {
		var references []string
		for _, name := range n.references {
			references = append(references, variable(name))
		}
		salt := ""
		if slices.Contains(opts.bump, n.name) {
			salt = opts.salt
		}
		tree := filepath.Join(trees, n.name)
		fmt.Fprintf(&text, "  %s = package %s %s %s [ %s ];\n", variable(n.name), quote(storeName(n.name+"-"+n.version)), quote(tree), quote(salt), strings.Join(references, " "))
		all = append(all, variable(n.name))
		if strings.HasPrefix(n.name, "linux-image-") && kernel == "" {
			kernel = variable(n.name)
		}
		if n.name == "systemd" {
			systemd = variable(n.name)
		}
		if opts.units {
			units, err := unitFiles(tree)
			if err != nil {
				return "", err
			}
			for _, file := range units {
				name := "unit-" + filepath.Base(file)
				if slices.Contains(all, variable(name)) {
					continue
				}
				fmt.Fprintf(&text, "  %s = unit %s %s %s;\n", variable(name), quote(storeName(filepath.Base(file))), quote(file), variable(n.name))
				all = append(all, variable(name))
			}
		}
	}
	if kernel == "" || systemd == "" {
		return "", fmt.Errorf("a system needs a linux-image and systemd among its packages")
	}
	fmt.Fprintf(&text, "  all = [ %s ];\n  kernel = %s;\n  systemd = %s;\n", strings.Join(all, " "), kernel, systemd)
	text.WriteString(system)
	return text.String(), nil
}

// unitFiles are a package's systemd units.
func unitFiles(tree string) ([]string, error) {
	dir := filepath.Join(tree, "lib/systemd/system")
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	var files []string
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			files = append(files, filepath.Join(dir, entry.Name()))
		}
	}
	return files, err
}

var (
	notInStoreNames = regexp.MustCompile(`[^A-Za-z0-9+._?=-]`)
	notInVariables  = regexp.MustCompile(`[^A-Za-z0-9]`)
)

func storeName(s string) string { return notInStoreNames.ReplaceAllString(s, "-") }

// variable is a name in the Nix language that is different for each s.
func variable(s string) string {
	return "p-" + notInVariables.ReplaceAllStringFunc(s, func(c string) string { return fmt.Sprintf("_%x", c) })
}

// quote is s as a string in the Nix language.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `${`, `\${`).Replace(s) + `"`
}
