package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
)

type version struct {
	Generation string `json:"generation"`
	Path       string `json:"path"`
}

// pointerName is that of the pointer that all puts move.
const pointerName = "web-1"

// source is the source of a resource, of who pushes or of who fetches.
func (l *lab) source(s *site, params string, publisher bool) map[string]any {
	source := map[string]any{"cache": s.url(params), "pointer": pointerName}
	if s.server != nil {
		source["access_key_id"], source["secret_access_key"] = s.server.accessKey, s.server.secretKey
	}
	if publisher {
		source["signing_key"] = l.secretKey
	} else {
		source["trusted_public_keys"] = []string{l.publicKey}
	}
	return source
}

// call runs one of our programs.
func (l *lab) call(ctx context.Context, s *site, program, dir string, env []string, request map[string]any, answer any) (sample, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return sample{}, err
	}
	got, out, err := s.measure(ctx, command{
		args: []string{filepath.Join(l.programs, program), dir}, env: env, stdin: string(text),
	})
	if err == nil {
		err = json.Unmarshal(out, answer)
	}
	return got, err
}

// out puts a closure.
func (l *lab) out(ctx context.Context, s *site, c closure, params string) (sample, version, error) {
	env, err := l.env(c.store)
	if err != nil {
		return sample{}, version{}, err
	}
	var answer struct{ Version version }
	got, err := l.call(ctx, s, "out", filepath.Join(l.scratch, "sources"), env, map[string]any{
		"source": l.source(s, params, true),
		"params": map[string]string{"store_path": c.root.String()},
	}, &answer)
	return got, answer.Version, err
}

// in gets a version, in a format, into an empty directory in another one, and
// removes it.
func (l *lab) in(ctx context.Context, s *site, v version, format, parent string) (sample, error) {
	dir, err := os.MkdirTemp(parent, "in-")
	if err != nil {
		return sample{}, err
	}
	defer removeTree(dir)
	var answer struct{ Version version }
	return l.call(ctx, s, "in", dir, []string{}, map[string]any{
		"source":  l.source(s, "", false),
		"version": v,
		"params":  map[string]string{"format": format},
	}, &answer)
}

// check asks for versions after v.
func (l *lab) check(ctx context.Context, s *site, v version) (sample, error) {
	var answer []version
	return l.call(ctx, s, "check", "", []string{}, map[string]any{"source": l.source(s, "", false), "version": v}, &answer)
}

// nixPush is nix copy to the site.
func (l *lab) nixPush(ctx context.Context, s *site, c closure, params string) (sample, error) {
	env, err := l.env(c.store)
	if err != nil {
		return sample{}, err
	}
	got, _, err := s.measure(ctx, command{
		args: []string{filepath.Join(l.nix, "nix"), "copy", "--to", s.url(params + "&secret-key=" + l.keyFile), c.root.String()},
		env:  env,
	})
	return got, err
}

// nixFetch is nix copy from the site to a closure's store.
func (l *lab) nixFetch(ctx context.Context, s *site, c closure) (sample, error) {
	env, err := l.env(c.store)
	if err != nil {
		return sample{}, err
	}
	got, _, err := s.measure(ctx, command{
		args: []string{filepath.Join(l.nix, "nix"), "copy", "--from", s.url(""), c.root.String()},
		env:  env,
	})
	return got, err
}
