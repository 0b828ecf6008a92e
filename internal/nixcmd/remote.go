package nixcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A remote is the store of another machine, reached as Nix reaches ssh-ng://…:
// by its daemon, over ssh. Nix itself has things built there; what is asked and
// read of the store goes over connections of our own, each of which carries any
// number of questions and NARs.
type remote struct {
	url     string // for Nix
	name    string // for people
	sshopts string // for Nix's ssh: older ones take no port in a URL
	program string
	args    []string
	ssh     *sshAccess

	idle  chan *daemon  // connections that nobody uses
	spare chan struct{} // how many more there may be
	sizes sizes         // of NARs, by path
}

// maxConnections is how many of our connections a remote store gets: what hides
// a round trip, and takes it little memory.
const maxConnections = 4

// parseRemote parses the URL of a remote store: ssh-ng://user@host:port, with
// those of Nix's parameters that say how to get there.
func parseRemote(text string, ssh *sshAccess) (*remote, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "ssh-ng" || u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return nil, hint.With(errors.New("this is not the URL of a store that is reached by ssh"), "write it as for Nix: ssh-ng://user@host, without a path")
	}
	if _, password := u.User.Password(); password || strings.HasPrefix(u.User.Username(), "-") || strings.HasPrefix(u.Hostname(), "-") {
		return nil, hint.With(errors.New("the URL of the store names nobody who could log in"), "ssh-ng://user@host, and the key as ssh_key")
	}
	there := *u
	there.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
	r := &remote{url: there.String(), sshopts: ssh.options, ssh: ssh, idle: make(chan *daemon, maxConnections), spare: make(chan struct{}, maxConnections)}
	for range maxConnections {
		r.spare <- struct{}{}
	}
	plain := url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host}
	r.name = plain.String()

	program, store := "nix-daemon", ""
	var options []string
	for name, values := range u.Query() {
		switch value := values[0]; name {
		case "remote-program":
			program = value
		case "remote-store":
			store = value
		case "ssh-key":
			if err := checkKeyFile(value); err != nil {
				return nil, fmt.Errorf("the key of the store %s: %w", r.name, err)
			}
			options = append(options, "-i", value)
		case "compress":
			if value == "true" {
				options = append(options, "-C")
			}
		case "max-connections", "max-connection-age", "priority", "system-features", "want-mass-query", "trusted":
		default:
			return nil, hint.With(fmt.Errorf("the parameter %s of the store's URL is unknown", name),
				"known are remote-program, remote-store, ssh-key and compress; the host's key is named by ssh_known_hosts")
		}
	}
	command := []string{program, "--stdio"}
	if store != "" {
		command = append(command, "--store", store)
	}
	if u.Host == "localhost" { // where Nix takes it for this machine, without ssh
		r.program, r.args = command[0], command[1:]
		return r, nil
	}
	r.program = "ssh"
	r.args = append(strings.Fields(ssh.options), options...)
	if port := u.Port(); port != "" {
		r.args = append(r.args, "-p", port)
		r.sshopts += " -p " + port
	}
	host := u.Hostname()
	if user := u.User.Username(); user != "" {
		host = user + "@" + host
	}
	for i, word := range command {
		command[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	r.args = append(r.args, "-x", "-T", host, "--", strings.Join(command, " "))
	return r, nil
}

// runThere runs one of Nix's programs that has things done there.
func (s *Store) runThere(ctx context.Context, stdout, stderr io.Writer, program string, args ...string) error {
	return s.runTo(ctx, toBuildThere, stdout, stderr, program, args...)
}

// use does something over a connection, one that is there or a new one. After an
// error the connection is given up.
func (r *remote) use(ctx context.Context, do func(*daemon) error) error {
	d, err := r.take(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, d.end)
	err = do(d)
	refused := new(daemonError)
	if stop() && (err == nil || errors.As(err, &refused)) {
		r.idle <- d
		return err
	}
	lost := d.close()
	r.spare <- struct{}{}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case lost != nil:
		return r.unreachable(fmt.Errorf("the connection to %s is lost: %w", r.name, lost))
	}
	return fmt.Errorf("%s: %w", r.name, err)
}

// take returns a connection that nobody uses, the best one first: one that is
// there, a new one, or the next that isn't needed any more.
func (r *remote) take(ctx context.Context) (*daemon, error) {
	for {
		var d *daemon
		select {
		case d = <-r.idle:
		default:
			select {
			case d = <-r.idle:
			case <-r.spare:
				d, err := r.dial(ctx)
				if err != nil {
					r.spare <- struct{}{}
				}
				return d, err
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if len(d.ended) == 0 {
			return d, nil
		}
		d.close() // it was lost while nobody used it
		r.spare <- struct{}{}
	}
}

func (r *remote) dial(ctx context.Context) (*daemon, error) {
	defer r.ssh.use()()
	d, err := startDaemon(r.program, r.args, r.ssh.env())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, d.end)
	err = d.handshake()
	if stop() && err == nil {
		return d, nil
	}
	if lost := d.close(); lost != nil {
		err = lost
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, r.unreachable(fmt.Errorf("%s can't be reached: %w", r.name, err))
}

// unreachable adds what to do about what ssh says.
func (r *remote) unreachable(err error) error {
	for _, known := range []struct{ said, advice string }{
		{"Host key verification failed", "name the machine's key: ssh-keyscan host, compared with what its owner says, goes into ssh_known_hosts"},
		{"Permission denied", "the public half of ssh_key has to be among that user's authorized_keys there"},
		{"Could not resolve hostname", "is its name spelt right, and known to the worker's DNS?"},
		{"not found", "nix-daemon has to be on the PATH of that user there, or be named by remote-program in the URL"},
		{"No such file", "nix-daemon has to be on the PATH of that user there, or be named by remote-program in the URL"},
	} {
		if strings.Contains(err.Error(), known.said) {
			return hint.With(err, "%s", known.advice)
		}
	}
	return hint.With(err, "is the machine up, and may the worker connect to it?")
}

// close ends all connections. Nobody may use one any more.
func (r *remote) close() {
	if r == nil {
		return
	}
	for {
		select {
		case d := <-r.idle:
			d.end()
			<-d.ended
		default:
			return
		}
	}
}

// closure is what that store knows of the paths and of all that they reference.
func (r *remote) closure(ctx context.Context, roots []nix.StorePath) ([]nix.PathInfo, error) {
	known := map[nix.StorePath]nix.PathInfo{}
	frontier := nix.SortPaths(slices.Clone(roots))
	for len(frontier) > 0 {
		infos, err := r.pathInfos(ctx, frontier)
		if err != nil {
			return nil, err
		}
		var next []nix.StorePath
		for i, info := range infos {
			if info == nil {
				return nil, hint.With(fmt.Errorf("%s is not valid in it", frontier[i]), "build it there, or name the store that has it")
			}
			known[info.Path] = *info
			next = append(next, info.References...)
		}
		frontier = slices.DeleteFunc(nix.SortPaths(next), func(p nix.StorePath) bool {
			_, ok := known[p]
			return ok
		})
	}
	var infos []nix.PathInfo
	for _, info := range known {
		infos = append(infos, info)
	}
	infos = nix.SortInfos(infos)
	r.sizes.note(infos)
	return infos, nil
}

// pathInfos are what the store knows of the paths, in their order; nil for one
// that isn't valid there.
func (r *remote) pathInfos(ctx context.Context, paths []nix.StorePath) (infos []*nix.PathInfo, err error) {
	for batch := range slices.Chunk(paths, 64) { // at once, so that the round trip is one
		err := r.use(ctx, func(d *daemon) error {
			some, err := d.queryPathInfos(batch)
			infos = append(infos, some...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return infos, nil
}

// has says whether the paths are valid there.
func (r *remote) has(ctx context.Context, paths ...nix.StorePath) (bool, error) {
	infos, err := r.pathInfos(ctx, paths)
	return !slices.Contains(infos, nil), err
}

// dumpNAR writes the NAR of a path, which must be of a closure that was asked
// for.
func (r *remote) dumpNAR(ctx context.Context, path nix.StorePath, w io.Writer) error {
	size, ok := r.sizes.of(path)
	if !ok {
		return fmt.Errorf("nothing is known of %s", path)
	}
	return r.use(ctx, func(d *daemon) error { return d.narFromPath(path, size, w) })
}
