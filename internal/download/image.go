package download

import (
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
)

// An image is the directory rootfs of a destination, on its way from a store to
// what Concourse takes for a task's image: with the few files that programs
// expect of any machine, and fixed names for what is called otherwise in each
// closure.
//
// The closure's own files are all in nix/store; everything else in rootfs is
// made here, in directories that are made here. So no symlink of the closure
// can make us write elsewhere.
type image struct{ rootfs *os.Root }

// Where a machine, or a path, has its shell, and the certificates of authorities.
const (
	shell          = "/bin/sh"
	caBundle       = "/etc/ssl/certs/ca-bundle.crt"
	caCertificates = "/etc/ssl/certs/ca-certificates.crt"
)

// makeImage makes an image of dest, whose rootfs holds the store of a closure,
// together with the further ones that are part of it.
func makeImage(dest destination, closure *cache.Closure, also []further) error {
	rootfs, err := os.OpenRoot(dest.path("rootfs"))
	if err != nil {
		return err
	}
	defer rootfs.Close()
	img := image{rootfs}
	if err := img.fill(); err != nil {
		return err
	}

	// What the task is about, and what helps it.
	homes := []string{"/closure"}
	if err := img.symlink("/closure", closure.Root.String()); err != nil {
		return err
	}
	for _, a := range also {
		home := "/closures/" + string(a.pointer)
		if err := img.symlink(home, a.closure.Root.String()); err != nil {
			return err
		}
		homes = append(homes, home)
	}

	var bins, shells, bundles []string
	for _, home := range homes {
		bins = append(bins, home+"/bin", home+"/sw/bin")
		shells = append(shells, home+"/sw/bin/sh", home+"/bin/sh")
		bundles = append(bundles, home+caCertificates, home+caBundle)
	}
	shells = slices.Concat(shells, inPaths(closure, "bash-", shell), inPaths(closure, "busybox-", shell))
	if err := img.link(shell, 0o111, shells); err != nil {
		return err
	}
	bundles = append(bundles, inPaths(closure, "nss-cacert-", caBundle)...)
	if err := img.link(caCertificates, 0o444, bundles); err != nil {
		return err
	}

	metadata, err := json.Marshal(map[string]any{
		"env":  []string{"PATH=" + strings.Join(append(bins, path.Dir(shell)), ":")},
		"user": "root",
	})
	if err != nil {
		return err
	}
	return dest.write("metadata.json", string(metadata)+"\n")
}

// inPaths are the places of a file in those paths of a closure whose names
// begin so.
func inPaths(closure *cache.Closure, prefix, file string) []string {
	var places []string
	for i := range closure.Paths {
		if p := closure.Paths[i].Path; strings.HasPrefix(p.Name(), prefix) {
			places = append(places, p.String()+file)
		}
	}
	return places
}

// fill makes what is the same in each image.
func (img image) fill() error {
	for _, dir := range []struct {
		name string
		mode fs.FileMode
	}{
		{"etc", 0o755},
		{"root", 0o700},
		{"tmp", 0o777 | fs.ModeSticky},
	} {
		if err := img.rootfs.MkdirAll(dir.name, 0o755); err != nil {
			return err
		}
		if err := img.rootfs.Chmod(dir.name, dir.mode); err != nil { // whatever the umask is
			return err
		}
	}
	for _, file := range []struct{ name, content string }{
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
		{"etc/group", "root:x:0:\nnogroup:x:65534:\n"},
	} {
		if err := img.rootfs.WriteFile(file.name, []byte(file.content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// link makes name a symlink to the first of those places, as they are called in
// the image, that leads to a file with one of these permissions. If none does
// there will be no such name.
func (img image) link(name string, permissions fs.FileMode, places []string) error {
	for _, place := range places {
		info, err := img.stat(place)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&permissions == 0 {
			continue
		}
		return img.symlink(name, place)
	}
	return nil
}

// symlink makes name, which is absolute, a symlink.
func (img image) symlink(name, target string) error {
	if err := img.rootfs.MkdirAll("."+path.Dir(name), 0o755); err != nil {
		return err
	}
	return img.rootfs.Symlink(target, "."+name)
}

// maxLinks is how many symlinks Linux follows on the way to a file.
const maxLinks = 40

// stat is what those who live in the image see at name: its symlinks may be
// absolute, and none leads out of it.
func (img image) stat(name string) (fs.FileInfo, error) {
	at, links := ".", 0 // at is free of symlinks
	for rest := strings.Split(name, "/"); len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == ".." {
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, part)
		info, err := img.rootfs.Lstat(next)
		if err != nil {
			return nil, err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrInvalid}
		}
		target, err := img.rootfs.Readlink(next)
		if err != nil {
			return nil, err
		}
		if path.IsAbs(target) {
			at = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return img.rootfs.Lstat(at)
}
