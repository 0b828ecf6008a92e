// Package substituter serves caches to the Nix of this machine, as long as that
// has something to build or to fetch: as binary caches over http, which every
// Nix reads, whatever the caches themselves are and want to see before they let
// somebody read. So no process of Nix holds a credential of a cache.
//
// What it serves is what this project believes: paths that are acceptable to
// their own cache, by that one's keys, and NARs that are what their narinfo
// says, unpacked. It only reads, lists nothing, and serves no pointer. An
// optional cache that can't be reached is empty, also when Nix has been told before
// what it has: then Nix takes that from elsewhere, or builds. (Where a NAR breaks off
// in the middle Nix gives up, as it does with any cache, unless fallback is set.)
//
// It listens on loopback, at a port and below a path that nobody can guess. Who
// can read the memory or the settings of that Nix learns the path, and may read
// by it what that Nix may read, for as long.
package substituter

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Server serves caches until it is closed.
type Server struct {
	http   http.Server
	base   url.URL
	caches []*served
	warn   func(error)
	served chan error
}

// A served cache keeps the narinfos that it has given out, and which of their
// NARs turned out to be damaged. Both are by hash part.
type served struct {
	*cache.Cache
	mu      sync.Mutex
	found   map[string]*cache.NarInfo
	damaged map[string]error
}

// Serve begins to serve the caches, the first of them being asked first. All
// requests end with ctx. What a cache has but nobody vouches for is told to
// warn, and not served.
func Serve(ctx context.Context, warn func(error), caches ...*cache.Cache) (*Server, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serving the cache to Nix: %w", err)
	}
	s := &Server{
		base:   url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/" + rand.Text()},
		warn:   warn,
		served: make(chan error, 1),
	}
	for _, c := range caches {
		s.caches = append(s.caches, &served{Cache: c, found: map[string]*cache.NarInfo{}, damaged: map[string]error{}})
	}
	s.http.Handler = s.handler()
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	go func() { s.served <- s.http.Serve(listener) }()
	return s, nil
}

// Know takes the narinfos of a closure of the first cache, which need not be
// asked for one by one then. What that cache has from another one, it serves too.
func (s *Server) Know(closure *cache.Closure) {
	c := s.caches[0]
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range closure.Paths {
		c.found[closure.Paths[i].Path.HashPart()] = &closure.Paths[i]
	}
}

// Close ends all requests, and returns when none is left.
func (s *Server) Close() error {
	err := s.http.Close()
	if ended := <-s.served; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

// URLs are what the caches are called among Nix's substituters, in their order.
// Nix asks for no signatures where a cache's owner doesn't.
func (s *Server) URLs() []string {
	urls := make([]string, len(s.caches))
	for i, c := range s.caches {
		u := s.base
		u.Path += "/" + strconv.Itoa(i)
		if !c.RequireSigs() {
			u.RawQuery = "trusted=true"
		}
		urls[i] = u.String()
	}
	return urls
}

// PublicKeys are those of all the caches, for Nix to verify once more what has
// been verified here by the keys of each cache alone.
func (s *Server) PublicKeys() nix.Keys {
	var keys nix.Keys
	for _, c := range s.caches {
		for _, key := range c.PublicKeys() {
			if c.RequireSigs() && !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// firstPriority stands before those of other caches: cache.nixos.org has 40, and
// Nix asks the lowest first.
const firstPriority = 10

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for i, c := range s.caches {
		base := "GET " + s.base.Path + "/" + strconv.Itoa(i) + "/" // and HEAD
		mux.HandleFunc(base+"nix-cache-info", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", nix.StoreDir, firstPriority+i)
		})
		mux.HandleFunc(base+"{file}", s.found(c, ".narinfo", serveNarInfo))
		mux.HandleFunc(base+"nar/{file}", s.found(c, ".nar", s.serveNAR))
	}
	return mux
}

// found answers requests for a file that is named by the hash part of a path,
// by serve, which is given the path's narinfo, and returns an error only before
// it has written anything.
func (s *Server) found(c *served, suffix string, serve func(http.ResponseWriter, *http.Request, *served, *cache.NarInfo) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		hash, ok := strings.CutSuffix(r.PathValue("file"), suffix)
		if !ok || nix.ValidateHashPart(hash) != nil {
			http.NotFound(w, r)
			return
		}
		ni, err := c.find(r.Context(), hash)
		found := err == nil
		if found {
			err = serve(w, r, c, ni)
		}
		switch {
		case err == nil || r.Context().Err() != nil:
		case errors.Is(err, blob.ErrNotExist):
			if found { // and so its file should have been, too
				s.warn(err)
			}
			http.NotFound(w, r)
		case errors.Is(err, cache.ErrUntrusted):
			s.warn(fmt.Errorf("not used: %w", err))
			http.NotFound(w, r)
		default:
			s.warn(err)
			// What was tried again and again here, Nix needn't: this is what it
			// takes for final.
			http.Error(w, err.Error(), http.StatusNotImplemented)
		}
	}
}

func (c *served) find(ctx context.Context, hash string) (*cache.NarInfo, error) {
	c.mu.Lock()
	ni := c.found[hash]
	c.mu.Unlock()
	if ni != nil {
		return ni, nil
	}
	ni, err := c.Find(ctx, hash)
	if err == nil {
		c.mu.Lock()
		c.found[hash] = ni
		c.mu.Unlock()
	}
	return ni, err
}

// serveNarInfo gives the narinfo of a path whose file is the NAR itself.
func serveNarInfo(w http.ResponseWriter, _ *http.Request, _ *served, ni *cache.NarInfo) error {
	plain := cache.NarInfo{
		PathInfo: ni.PathInfo, URL: "nar/" + ni.Path.HashPart() + ".nar", Compression: "none",
		FileHash: ni.NarHash, FileSize: ni.NarSize,
	}
	w.Header().Set("Content-Type", "text/x-nix-narinfo")
	io.WriteString(w, plain.Text())
	return nil
}

// serveNAR gives the NAR. Its last bytes follow only when all of it has been
// verified; if that fails, the connection breaks.
func (s *Server) serveNAR(w http.ResponseWriter, r *http.Request, c *served, ni *cache.NarInfo) error {
	c.mu.Lock()
	err := c.damaged[ni.Path.HashPart()]
	c.mu.Unlock()
	if err != nil {
		return err
	}
	nar, err := c.OpenNAR(r.Context(), ni)
	if err != nil {
		return err
	}
	defer nar.Close()
	w.Header().Set("Content-Type", "application/x-nix-nar")
	w.Header().Set("Content-Length", strconv.FormatInt(ni.NarSize, 10))
	held, next := make([]byte, 0, bufferSize), make([]byte, bufferSize)
	for {
		n, err := io.ReadFull(nar, next)
		last := err == io.EOF || err == io.ErrUnexpectedEOF // of ReadFull; what OpenNAR's reader returns says more
		if err != nil && !last {
			if damage := new(cache.VerifyError); errors.As(err, &damage) {
				c.mu.Lock()
				c.damaged[ni.Path.HashPart()] = err
				c.mu.Unlock()
			}
			s.warn(err)
			panic(http.ErrAbortHandler)
		}
		if _, err := w.Write(held); err != nil {
			return nil // Nix has hung up
		}
		if last {
			w.Write(next[:n])
			return nil
		}
		held, next = next[:n], held[:bufferSize]
	}
}

// bufferSize is how much of a NAR is read at once, in bytes.
const bufferSize = 128 << 10
