package main

import (
	"os"

	"github.com/nixos-closure/nixos-closure-resource/resource"
)

func main() { os.Exit(resource.Main(resource.Out)) }
