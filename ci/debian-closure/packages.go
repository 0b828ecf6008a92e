package main

import (
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A debian is one of Debian's packages.
type debian struct {
	name, version string
	deb           string     // the file
	depends       [][]string // alternatives, any of which will do
	provides      []string
}

// readPackages reads what the .deb files in a directory say of themselves.
func readPackages(dir string) ([]debian, error) {
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	var packages []debian
	for _, deb := range debs {
		out, err := exec.Command("dpkg-deb", "--show", "--showformat", "${Package}\n${Version}\n${Pre-Depends}, ${Depends}\n${Provides}\n", deb).Output()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", deb, err)
		}
		field := strings.Split(string(out), "\n")
		p := debian{name: field[0], version: field[1], deb: deb, provides: packageNames(field[3], ",")}
		for alternatives := range strings.SplitSeq(field[2], ",") {
			p.depends = append(p.depends, packageNames(alternatives, "|"))
		}
		packages = append(packages, p)
	}
	return packages, nil
}

var constraint = regexp.MustCompile(`[ (:].*`)

// packageNames are the names in a list such as "libc6 (>= 2.36), perl:any".
func packageNames(list, separator string) []string {
	var names []string
	for name := range strings.SplitSeq(list, separator) {
		if name = constraint.ReplaceAllString(strings.TrimSpace(name), ""); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// A node is a package with those that it refers to.
type node struct {
	debian
	references []string
}

// sorted orders packages so that each comes after those that it refers to.
// Debian's packages may depend on one another in a circle, store paths may not:
// the dependency that would close one is left out.
func sorted(packages []debian) []node {
	byName := map[string]debian{} // virtual packages too
	for _, p := range packages {
		for _, name := range p.provides {
			byName[name] = p
		}
	}
	for _, p := range packages {
		byName[p.name] = p
	}

	var nodes []node
	begun, done := map[string]bool{}, map[string]bool{}
	var visit func(p debian)
	visit = func(p debian) {
		begun[p.name] = true
		references := map[string]bool{}
		for _, alternatives := range p.depends {
			for _, name := range alternatives {
				provider, ok := byName[name]
				if !ok {
					continue
				}
				if !begun[provider.name] {
					visit(provider)
				}
				if done[provider.name] {
					references[provider.name] = true
				}
				break
			}
		}
		done[p.name] = true
		nodes = append(nodes, node{p, slices.Sorted(maps.Keys(references))})
	}
	for _, p := range packages {
		if !begun[p.name] {
			visit(p)
		}
	}
	return nodes
}
