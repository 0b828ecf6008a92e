package main

import (
	"os"
	"path/filepath"

	"github.com/nixos-closure/nixos-closure-resource/internal/command"
	"github.com/nixos-closure/nixos-closure-resource/resource"
)

// In an image it stands in for the programs of the resource, too, under their
// names: one binary is a third of the size of four.
func main() {
	switch filepath.Base(os.Args[0]) {
	case "check":
		os.Exit(resource.Main(resource.Check))
	case "in":
		os.Exit(resource.Main(resource.In))
	case "out":
		os.Exit(resource.Main(resource.Out))
	}
	os.Exit(command.Main())
}
