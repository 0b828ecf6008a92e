// Package nar reads and writes NARs, the archives in which Nix moves store
// paths, with the strictness of Nix itself.
//
// A [Reader] accepts a NAR if and only if a current Nix (2.34) does: depth up
// to 64, names of 1 to 255 bytes without slash and NUL, never "." or "..",
// strictly increasing; link targets of 1 to 4095 bytes; no tokens that don't
// belong, no padding that isn't zero. It is stricter in one thing: where Nix
// doesn't look behind the end, it accepts nothing there. Whatever restores or
// lists an archive does it through this reader.
//
// The format is specified in figure 5.2 of Eelco Dolstra's thesis "The Purely
// Functional Software Deployment Model" (2006) and in the Nix manual under
// "Nix Archive (NAR) format".
//
// This package knows no store and no hashes: it turns files into bytes and
// back, in bounded memory, whatever the size of the archive.
package nar
