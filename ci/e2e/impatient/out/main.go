// This is the program of its name with less patience.
package main

import (
	"os"

	"github.com/nixos-closure/nixos-closure-resource/ci/e2e/impatient"
	"github.com/nixos-closure/nixos-closure-resource/resource"
)

func main() {
	impatient.Be()
	os.Exit(resource.Main(resource.Out))
}
