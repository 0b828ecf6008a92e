package nixcmd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// An sshAccess lets the ssh that Nix and git start log in to other machines. A
// key never leaves this process, which signs with it as an agent, and does so only
// while a process runs that may log in: whoever else gets at the agent's socket
// may log in as well then, but learns no key.
type sshAccess struct {
	dir      string // for us alone
	listener net.Listener
	options  string // for ssh
	agent    bool   // there is one of our own

	serving sync.WaitGroup
	mu      sync.Mutex
	conns   map[net.Conn]bool
	users   int // processes that may log in
}

// sshOptions make ssh fail where it would ask somebody, lend nobody the agent,
// and notice within a minute that a machine is gone.
const sshOptions = "-oBatchMode=yes -oForwardAgent=no -oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=3"

func openSSH(settings *Settings) (_ *sshAccess, err error) {
	a := &sshAccess{options: strings.TrimSpace(os.Getenv("NIX_SSHOPTS") + " " + sshOptions)}
	if settings.SSHKey.IsZero() && settings.KnownHosts == "" {
		return a, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("preparing what ssh needs: %w", err), a.close())
		}
	}()
	if a.dir, err = os.MkdirTemp("", "nixos-closure-ssh-*"); err != nil { // with mode 0700
		return nil, err
	}
	if settings.KnownHosts != "" {
		file := filepath.Join(a.dir, "known_hosts")
		if err := os.WriteFile(file, []byte(strings.TrimSuffix(settings.KnownHosts, "\n")+"\n"), 0o600); err != nil {
			return nil, err
		}
		a.options += " -oUserKnownHostsFile=" + file + " -oGlobalKnownHostsFile=/dev/null -oStrictHostKeyChecking=yes"
	}
	if settings.SSHKey.IsZero() {
		return a, nil
	}
	keyring := agent.NewKeyring().(agent.ExtendedAgent) // as its comment says
	if err := keyring.Add(agent.AddedKey{PrivateKey: settings.SSHKey.key}); err != nil {
		return nil, err
	}
	if a.listener, err = net.Listen("unix", a.socket()); err != nil {
		return nil, err
	}
	a.agent, a.conns = true, map[net.Conn]bool{}
	a.serving.Go(func() { a.serve(fixed{keyring}) })
	return a, nil
}

func (a *sshAccess) socket() string { return filepath.Join(a.dir, "agent") }

// use opens the agent until done is called.
func (a *sshAccess) use() (done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users++
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.users--; a.users == 0 {
			a.hangUp()
		}
	})
}

func (a *sshAccess) hangUp() {
	for conn := range a.conns {
		conn.Close()
	}
}

// A fixed agent takes no notice of whoever wants to change it.
type fixed struct{ agent.ExtendedAgent }

func (fixed) Add(agent.AddedKey) error   { return nil }
func (fixed) Remove(ssh.PublicKey) error { return nil }
func (fixed) RemoveAll() error           { return nil }
func (fixed) Lock([]byte) error          { return nil }
func (fixed) Unlock([]byte) error        { return nil }

func (a *sshAccess) serve(keys agent.Agent) {
	for {
		conn, err := a.listener.Accept()
		if err != nil {
			return // it is closed
		}
		a.mu.Lock()
		open := a.users > 0
		if open {
			a.conns[conn] = true
		}
		a.mu.Unlock()
		if !open {
			conn.Close()
			continue
		}
		a.serving.Go(func() {
			agent.ServeAgent(keys, conn) // to its end
			conn.Close()
			a.mu.Lock()
			delete(a.conns, conn)
			a.mu.Unlock()
		})
	}
}

// env are the variables by which Nix and git find it.
func (a *sshAccess) env() []string {
	env := []string{"NIX_SSHOPTS=" + a.options, "GIT_SSH_COMMAND=ssh " + a.options}
	if a.agent {
		env = append(env, "SSH_AUTH_SOCK="+a.socket())
	}
	return env
}

// close ends the agent, and leaves nothing behind.
func (a *sshAccess) close() error {
	if a == nil {
		return nil
	}
	var err error
	if a.listener != nil {
		err = a.listener.Close()
		a.mu.Lock()
		a.users = 0
		a.hangUp()
		a.mu.Unlock()
		a.serving.Wait()
		a.listener = nil
	}
	if a.dir != "" {
		err = errors.Join(err, os.RemoveAll(a.dir))
	}
	return err
}
