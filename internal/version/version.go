// Package version says which release of the programs this is: to people by
// nixos-closure --version, and to servers by the User-Agent of each request.
package version

// Number is the release's, such as 1.3.0. A build that nobody told one is "dev";
// the linker is what tells:
//
//	go build -ldflags '-X github.com/nixos-closure/nixos-closure-resource/internal/version.Number=1.3.0'
//
// It is no constant for the linker's sake. Nothing else sets it.
var Number = "dev"
