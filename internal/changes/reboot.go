package changes

import (
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// The parts of a system that run from boot to boot. NixOS itself tells by their
// store paths, not by their versions, that a reboot is due: a kernel that was
// built again is another kernel.
var parts = []string{"kernel", "initrd", "systemd"}

// partOf returns which part a path is that a system refers to, or "", by the
// names that nixpkgs gives them: linux-6.12.30 and linux-6.12.30-modules,
// linux-zen-6.16.1, and the kernel-modules put together from all packages that
// have some; initrd-linux-6.12.30; systemd-257.6, but not systemd-boot.
func partOf(path nix.StorePath) string {
	pkg, version := split(path.Name())
	switch {
	case isVariant(pkg, "linux"), path.Name() == "kernel-modules":
		return "kernel"
	case isVariant(pkg, "initrd"):
		return "initrd"
	case isVariant(pkg, "systemd") && version != "":
		return "systemd"
	}
	return ""
}

// isVariant says whether pkg is a package of that name, or name-something.
func isVariant(pkg, name string) bool { return pkg == name || strings.HasPrefix(pkg, name+"-") }

// part returns the paths that are that part of the system: of those that its
// root refers to itself. What else is in its closure, it doesn't boot, and may
// be named like a part without being one (linux-pam, systemd-minimal), or be
// that of a specialisation.
func (cl Closure) part(name string) []nix.StorePath {
	i := slices.IndexFunc(cl.Infos, func(info nix.PathInfo) bool { return info.Path == cl.Root })
	if i < 0 {
		return nil
	}
	isOther := func(path nix.StorePath) bool { return partOf(path) != name }
	return slices.DeleteFunc(slices.Clone(cl.Infos[i].References), isOther)
}
