package nar

import "fmt"

// A Type is what kind of file an entry is.
type Type uint8

// The three kinds of file that an archive can hold.
const (
	Regular Type = iota
	Directory
	Symlink
)

// String is the type as archives spell it.
func (t Type) String() string {
	switch t {
	case Regular:
		return "regular"
	case Directory:
		return "directory"
	case Symlink:
		return "symlink"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// An Entry is a file of an archive.
type Entry struct {
	Path       string // from the root of the archive, with slashes; "" is the root itself
	Type       Type
	Executable bool   // regular files only
	Size       int64  // of a regular file's contents, in bytes
	Target     string // of a symlink
}

// The limits of the format. They are Nix's (src/libutil/archive.cc), and
// independent of the file system that is read from or written to.
const (
	maxDepth  = 64   // nodes on the way from the root to a leaf, both counted
	maxName   = 255  // bytes
	maxTarget = 4095 // bytes
)
