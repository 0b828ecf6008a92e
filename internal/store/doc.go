// Package store is Nix's stores as files: those below a directory of any name,
// which it writes itself ([Root]) or reads whoever wrote them ([Directory]), tars of
// them ([Tarball]), the files of a single path ([Tree]), and the lists that tell a
// Nix what is in them. It needs no Nix, and starts none.
//
// A store that this package writes is whole: its database appears at once, when
// all files are there, in the form of docs/formats.md, which is Nix's own.
package store
