// Package host is a host that follows its pointer: it reads which generation it
// should run, fetches it, tries it, proves it, and then keeps it or goes back.
//
// One [Host.Follow] is one run, which a timer starts again and again. It is not a
// daemon: between two runs nothing of it is in memory, and whatever it has to
// know is in one file, the [State].
//
// # What is promised
//
// The machine never boots by default, and never keeps running, a system that was
// not proven on it. A new system is activated (`switch-to-configuration test`)
// while the old one stays what the machine boots; only when its health checks
// were green, and stayed so for a while, it becomes the system profile's newest
// generation and the boot loader's default. Power may fail at any instant before
// that: the machine comes up on the old system.
//
// The way back is to the exact path that was remembered before anything changed.
// A garbage collector's root keeps it, and no network is needed.
//
// The machine runs only what its pointer's key has signed for that pointer and
// this kind of machine, never a number below one that it has verified, and never
// by itself a generation that has failed here.
//
// A generation has failed if its checks were red here, and the same checks are
// green again on the old system. If they are red there, too, the machine can't
// tell, and says so: the attempt is [Inconclusive], and is repeated after pauses
// that grow.
//
// # The steps, and what is on disk after each
//
//	read     the pointer, by one conditional GET; what it may be, package pointer decides
//	         disk: a root of the garbage collector, <pointer>-<number>; the highest number,
//	         its path and time; the newest generation
//	decide   nothing new, failed before, held, drifted, too early: then this was all
//	fetch    what the store lacks
//	try      health of the old system, for comparison; then activate the new one
//	         disk, before the activation: the trial, with its attempt's number, and the remembered system
//	prove    checks, a fresh connection to the cache, a while without restarts
//	         disk: the trial is proven, or condemned and why
//	keep     the profile, then the boot loader; synced, and read back
//	         disk: no trial, and what was left behind
//	         (A system that boots otherwise is tried by a boot: see boot.go.)
//	go back  the remembered system's own activation, then the checks again
//	         disk: no trial, and the verdict: failed or inconclusive
//
// Each write is whole or not there, and synced before the next step begins
// (state.go). So whoever finds a trial in the state knows that a run has ended
// before its verdict: the next run settles that first (settle.go), before it reads
// anything. An attempt without a verdict counts; the second one has failed, for it
// never came back.
//
// Nobody has to wait for the next run: before the activation, a unit is started
// that goes back by itself when the deadline is over ([Host.EndTrial]). It is made
// of the old system's files, and ends the run that has left it, should that hang.
//
// # What belongs to others
//
// If what runs, or the profile, is not what the last run has left, somebody has
// changed it by hand. That is [Drift]: nothing is touched until a newer
// generation comes or a person says so. The same is looked at before each step
// that changes something.
//
// Programs are started here by exec.go, and what must outlive this process by a
// [Units]: systemd where it runs, or processes of our own. None gets a credential
// of a cache. What is activated need not be NixOS: [Config.Activate] may be any
// command.
//
// This package draws nothing and logs nothing but lines to Host.Log; it parses no
// flags. It doesn't build, doesn't evaluate, and never writes to the cache.
package host
