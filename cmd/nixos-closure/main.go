package main

import (
	"os"

	"github.com/nixos-closure/nixos-closure-resource/internal/command"
)

func main() { os.Exit(command.Main()) }
