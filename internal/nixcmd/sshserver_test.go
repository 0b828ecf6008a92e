package nixcmd

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// An sshServer is another machine: it lets one key in, and runs what it is asked
// to in an environment of its own.
type sshServer struct {
	address    string
	userKey    SSHKey // that may log in
	knownHosts string

	mu      sync.Mutex
	conns   []net.Conn
	ran     []string
	running sync.WaitGroup // commands
}

func newSSHServer(t *testing.T, env []string) *sshServer {
	t.Helper()
	nixtest.SSH(t)
	userKey, userPublic := newSSHKey(t)
	hostKey, hostPublic := newSSHKey(t)
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if !bytes.Equal(key.Marshal(), userPublic.Marshal()) {
			return nil, errors.New("a stranger")
		}
		return nil, nil
	}}
	signer, err := ssh.NewSignerFromKey(hostKey.key)
	if err != nil {
		t.Fatal(err)
	}
	config.AddHostKey(signer)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sshServer{address: listener.Addr().String(), userKey: userKey, knownHosts: knownhosts.Line([]string{listener.Addr().String()}, hostPublic)}
	t.Cleanup(func() {
		listener.Close()
		s.hangUp()
		s.running.Wait()
	})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			go s.serve(conn, config, env)
		}
	}()
	return s
}

func newSSHKey(t *testing.T) (SSHKey, ssh.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseSSHKey(string(pem.EncodeToMemory(block)))
	if err != nil {
		t.Fatal(err)
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key, sshPublic
}

func (s *sshServer) serve(conn net.Conn, config *ssh.ServerConfig, env []string) {
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	defer server.Close()
	go ssh.DiscardRequests(requests)
	for opened := range channels {
		channel, requests, err := opened.Accept()
		if err != nil {
			return
		}
		go func() {
			for request := range requests {
				if request.Type != "exec" {
					request.Reply(request.Type == "env", nil)
					continue
				}
				request.Reply(true, nil)
				var command struct{ Text string }
				ssh.Unmarshal(request.Payload, &command)
				s.mu.Lock()
				s.ran = append(s.ran, command.Text)
				s.mu.Unlock()
				cmd := exec.Command("sh", "-c", command.Text)
				cmd.Env, cmd.Stdout, cmd.Stderr = env, channel, channel.Stderr()
				cmd.WaitDelay = time.Second
				cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
				stdin, err := cmd.StdinPipe()
				if err != nil || cmd.Start() != nil {
					return
				}
				ended := make(chan struct{})
				s.running.Add(1)
				defer s.running.Done()
				go func() {
					io.Copy(stdin, channel)
					stdin.Close()
					server.Wait()
					select {
					case <-ended:
					default: // a daemon doesn't always notice while it builds
						syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
					}
				}()
				status := struct{ Code uint32 }{}
				if cmd.Wait() != nil {
					status.Code = uint32(cmd.ProcessState.ExitCode())
				}
				close(ended)
				channel.SendRequest("exit-status", false, ssh.Marshal(status))
				channel.Close()
			}
		}()
	}
}

// hangUp breaks all connections, as a machine does that is gone.
func (s *sshServer) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
}

// commands are those that were run, with forgetting them.
func (s *sshServer) commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.ran = nil }()
	return slices.Clone(s.ran)
}
