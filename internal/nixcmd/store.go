package nixcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"

	"github.com/nixos-closure/nixos-closure-resource/internal/ctxio"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// Options say how a Store is used.
type Options struct {
	Log  io.Writer   // what evaluations and builds say, as it comes; nil to drop it
	Warn func(error) // is told what a person should know before something is built; may be nil

	// Expect, unless zero, is the path whose closure is wanted first: Nix is asked
	// for it at the same time as for its settings.
	Expect nix.StorePath

	Settings Settings
}

// A Store is the store that the Nix on PATH uses, be it by itself, through its
// daemon, or below a directory, as NIX_REMOTE and nix.conf say. All methods may
// be called from several goroutines.
type Store struct {
	log      io.Writer
	settings Settings
	realDir  string      // where the files of nix.StoreDir are
	env      []string    // what Nix gets besides what environment picks
	isolator *isolator   // shared by all copies
	ssh      *sshAccess  // so, too
	locks    *lockChecks // and so
	built    *builds     // and so
	remote   *remote     // and so; nil if the store is this machine's
	expected *expectation
	assumed  Isolation // by who only asks
}

// Open finds Nix, and asks it for its store. Any version from 2.8 on will do.
// The caller must close it.
func Open(ctx context.Context, o Options) (*Store, error) {
	if _, err := exec.LookPath("nix"); err != nil {
		return nil, hint.With(errors.New("there is no nix on PATH"),
			"building, and reading a closure from a local store, needs Nix: use an image that has it")
	}
	s := &Store{
		log: o.Log, settings: o.Settings, isolator: &isolator{warn: o.Warn, written: o.Settings.written()}, built: new(builds), locks: &lockChecks{made: map[string]func() error{}},
	}
	if s.log == nil {
		s.log = io.Discard
	}
	if err := checkKeyFiles(o.Settings.Builders); err != nil {
		return nil, err
	}
	if !o.Expect.IsZero() && o.Settings.Store == "" {
		s.expected = s.expect(ctx, o.Expect)
	}
	s.isolator.log, s.isolator.ask = s.log, s.askSettings
	var err error
	if s.isolator.machine, err = s.askSettings(ctx, ""); err != nil {
		return nil, err
	}
	setting := s.isolator.machine.Store.Value
	if s.realDir, err = realStoreDir(setting); err != nil {
		return nil, hint.With(fmt.Errorf("the store %q that Nix is to use: %w", setting, err),
			"set NIX_REMOTE to daemon, local, or the directory of a store")
	}
	s.isolator.realDir = s.realDir
	if s.ssh, err = openSSH(&s.settings); err != nil {
		return nil, err
	}
	if o.Settings.Store != "" {
		if err := s.openRemote(ctx); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// askSettings asks Nix for its settings, where lines of a nix.conf stand between
// those of the machine and those that are written down for this Store.
func (s *Store) askSettings(ctx context.Context, lines string) (settings machineSettings, err error) {
	asker := *s
	asker.assumed.lines = lines
	out, err := asker.query(ctx, [][]string{{"config", "show", "--json"}, {"show-config", "--json"}})
	if err != nil {
		return settings, fmt.Errorf("asking Nix for its settings: %w", err)
	}
	if err := json.Unmarshal(out, &settings); err != nil {
		return settings, fmt.Errorf("reading Nix's settings: %w", err)
	}
	return settings, nil
}

// Close takes back what Nix was offered. No method may be called any more.
func (s *Store) Close() error {
	s.remote.close()
	return s.ssh.close()
}

// openRemote connects to the store that is not this machine's.
func (s *Store) openRemote(ctx context.Context) (err error) {
	if s.remote, err = parseRemote(s.settings.Store, s.ssh); err != nil {
		return err
	}
	s.isolator.warn = nil // nothing is built here, but what an evaluation needs
	if _, err := exec.LookPath(s.remote.program); err != nil {
		return hint.With(fmt.Errorf("there is no %s on PATH", s.remote.program), "a store that is reached by ssh needs an image that has it")
	}
	return s.remote.use(ctx, func(*daemon) error { return nil })
}

// run runs one of Nix's programs that may build.
func (s *Store) run(ctx context.Context, stdout, stderr io.Writer, program string, args ...string) error {
	return s.runTo(ctx, toBuild, stdout, stderr, program, args...)
}

// runEvaluation runs one that evaluates what can't look at the machine.
func (s *Store) runEvaluation(ctx context.Context, stdout, stderr io.Writer, program string, args ...string) error {
	return s.runTo(ctx, toEvaluate, stdout, stderr, program, args...)
}

// runTo runs one of Nix's programs, which is told what that purpose needs.
func (s *Store) runTo(ctx context.Context, why purpose, stdout, stderr io.Writer, program string, args ...string) error {
	c := child{stdout: stdout, stderr: stderr, env: s.env}
	i := s.assumed
	if why != toAsk {
		c.env = append(slices.Clone(c.env), s.settings.direct()...)
	}
	if why != toAsk && why != toFetch {
		var err error
		if i, err = s.isolator.isolate(ctx); err != nil {
			return err
		}
	}
	if s.settings.logsIn(why) {
		defer s.ssh.use()()
		c.env = append(c.env, s.ssh.env()...)
	}
	if why == toBuildThere {
		c.env = append(c.env, "NIX_SSHOPTS="+s.remote.sshopts)
	}
	c.conf, c.netrc = s.conf(why, i)
	return start(ctx, c, program, args...)
}

// RealPath is where the files of a path are, whether it is there or not.
func (s *Store) RealPath(path nix.StorePath) string { return s.realDir + "/" + path.Base() }

// DumpNAR writes the NAR of a path.
func (s *Store) DumpNAR(ctx context.Context, path nix.StorePath, w io.Writer) error {
	if s.remote != nil {
		if err := s.remote.dumpNAR(ctx, path, w); err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		return nil
	}
	if err := nar.Dump(ctxio.NewWriter(ctx, w), s.RealPath(path)); err != nil {
		return fmt.Errorf("reading %s from the local store: %w", path, err)
	}
	return nil
}
