package command

import (
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// words are those of a command line for what advice names.
func words(term hint.Term) string {
	switch term {
	case "put again":
		return "run it again"
	case "put its path (store_path)":
		return "use nixos-closure rollback"
	}
	key, value, hasValue := strings.Cut(string(term), ": ")
	flag := "--" + strings.ReplaceAll(key, "_", "-")
	switch {
	case !flagTerms[key] && hasValue:
		return variable(key) + ", or " + key + " in the file of --config"
	case !flagTerms[key]:
		return ""
	case !hasValue || value == "true":
		return flag
	case value == "false": // a flag that may stand alone takes no word after it
		return flag + "=false"
	}
	return flag + " " + value
}

// flagTerms are the terms of a pipeline that are flags here, where _ is -.
var flagTerms = map[string]bool{
	"allow_older": true, "attribute": true, "build": true, "eval_workers": true, "flake": true, "format": true, "if_generation": true, "impure": true,
	"require_sigs": true, "trusted_public_keys": true,
}
