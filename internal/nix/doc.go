// Package nix holds the words of Nix as values: store paths, hashes, path
// infos, keys and signatures. Each is parsed once, at the edge, and valid ever
// after; the rest of the project passes no raw strings for them.
//
// The syntax and the arithmetic are go-nix's; this package adds what its users
// need beyond that: comparable values, strictness where go-nix is lax, and
// secret keys that can't be printed.
package nix
