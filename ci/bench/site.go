package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A site is a place for a cache.
type site struct {
	dir    string // if it is a directory
	server *server
	proxy  *proxy // if requests go through one
}

// directory is the where of a cache that is in none of the servers.
const directory = "a directory"

// open makes an empty site: a directory, or a server with nothing in it and,
// if there is a delay, behind a proxy.
func (l *lab) open(ctx context.Context, where string, delay time.Duration) (*site, error) {
	dir, err := os.MkdirTemp(l.scratch, "site-")
	if err != nil {
		return nil, err
	}
	s := &site{}
	l.sites = append(l.sites, s)
	if where == directory {
		s.dir = dir
		return s, nil
	}
	if s.server, err = startServer(ctx, l.server(where), dir); err != nil {
		return nil, err
	}
	if delay > 0 {
		s.proxy, err = startProxy(s.server.url, delay)
	}
	return s, err
}

// near is the site without its proxy, to lay out what is not measured.
func (s *site) near() *site { return &site{dir: s.dir, server: s.server} }

// url is the site as a cache's URL with these parameters, such as
// compression=zstd.
func (s *site) url(params string) string {
	if s.server == nil {
		return "file://" + s.dir + "?" + params
	}
	endpoint := s.server.url
	if s.proxy != nil {
		endpoint = s.proxy.url
	}
	return "s3://" + bucket + "?region=us-east-1&endpoint=" + endpoint + "&" + params
}

// stored is how much the site has, in bytes.
func (s *site) stored(ctx context.Context) (int64, error) {
	if s.server != nil {
		return s.server.stored(ctx)
	}
	var size int64
	err := filepath.WalkDir(s.dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// close removes the site and returns the seconds of CPU that its server took.
// It may be closed again.
func (s *site) close() (cpu float64) {
	if s.proxy != nil {
		s.proxy.stop()
	}
	if s.server != nil {
		return s.server.stop()
	}
	os.RemoveAll(s.dir)
	return 0
}

// A sample is one measurement.
type sample struct {
	usage
	traffic
	Stored    int64   // bytes in the site afterwards, if that was looked at
	ServerCPU float64 // in seconds, if the server was there for this alone
	ProxyCPU  float64 // in seconds
}

// measure runs a command that uses the site.
func (s *site) measure(ctx context.Context, c command) (sample, []byte, error) {
	if s.proxy == nil {
		usage, out, err := measure(ctx, c)
		return sample{usage: usage}, out, err
	}
	s.proxy.count()
	before := ownCPU()
	usage, out, err := measure(ctx, c)
	return sample{usage: usage, traffic: s.proxy.count(), ProxyCPU: ownCPU() - before}, out, err
}

// ownCPU is the seconds of CPU that this process has taken, which while
// something is measured is those of the proxy.
func ownCPU() float64 {
	var own unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &own)
	return time.Duration(own.Utime.Nano() + own.Stime.Nano()).Seconds()
}
