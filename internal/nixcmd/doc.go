// Package nixcmd runs Nix: it evaluates, builds, and reads closures, in the store
// that the Nix of this machine uses or in that of another machine ([Store]). Any
// version from 2.8 on will do. Stores that need no Nix are package store's.
//
// # Child processes
//
// Reading a store's metadata and building need Nix, and Nix runs whatever the
// expression and the derivations say, often as our own user: without its
// sandbox, a builder can look at each of its ancestors through /proc. All
// children of this project are therefore started in one place (run.go), which
// keeps from them what they have no business with. A child gets
//
//   - an environment of listed variables only (environment.go),
//   - an empty stdin, two pipes, and no other descriptor but, if it is one of
//     Nix's programs, those by which it reads its settings (settings.go),
//   - a process group of its own, which is ended with it, and it is ended when
//     its context is, or this process is gone,
//   - no CAP_SYS_PTRACE, now or later, with which root may look at any process.
//
// How builders are kept from Nix itself is an [Isolation]; which of the secrets
// in [Settings] a process gets depends on that, and on what it is started for.
// docs/threat-model.md says what remains.
//
// And this process, which must have called [ProtectProcess] before it read a
// secret, can't be looked at without that capability, by root either. (What
// runs as the machine's own root, outside of a sandbox and with what Nix needs
// to make one, can do more than look: load a module into the kernel, say.)
package nixcmd
