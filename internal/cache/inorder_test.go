package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A sinkFunc is a Sink.
type sinkFunc func(path nix.StorePath, r io.Reader) error

func (f sinkFunc) Restore(_ context.Context, path nix.StorePath, r io.Reader) error {
	return f(path, r)
}

// wide is a closure of more paths, small and large, than are read ahead.
func wide(t *testing.T, c *Cache) (*store, *Closure) {
	t.Helper()
	s := &store{}
	var refs []nix.StorePath
	for i := range 3 * maxAhead {
		content := fmt.Sprint(i)
		if i%5 == 0 {
			content = strings.Repeat(content+" ", 2*chunksAhead*chunkSize/len(content+" "))
		}
		refs = append(refs, s.add(t, fmt.Sprint("path", i), content))
	}
	root := s.add(t, "root", "", refs...)
	push(t, c, s, root)
	closure, err := c.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return s, closure
}

// Each NAR comes whole, when all those of lesser paths have come.
func TestFetchInOrder(t *testing.T) {
	c := New(blob.NewMemory(), Config{})
	s, closure := wide(t, c)
	var got []nix.StorePath
	meter := &Meter{}
	err := c.FetchInOrder(t.Context(), closure, sinkFunc(func(path nix.StorePath, r io.Reader) error {
		got = append(got, path)
		nar, err := io.ReadAll(r)
		if !bytes.Equal(nar, s.nars[path]) {
			t.Errorf("the NAR of %s is another, of %d bytes", path, len(nar))
		}
		return err
	}), meter)
	if err != nil {
		t.Fatal(err)
	}
	var want []nix.StorePath
	for i := range closure.Paths {
		want = append(want, closure.Paths[i].Path)
	}
	slices.SortFunc(want, nix.StorePath.Compare)
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if meter.DonePaths.Load() != int64(len(want)) || meter.DoneBytes.Load() != closure.NarSize() || meter.TotalBytes.Load() != closure.NarSize() {
		t.Errorf("the meter shows %d paths and %d of %d bytes", meter.DonePaths.Load(), meter.DoneBytes.Load(), meter.TotalBytes.Load())
	}
}

// No request waits for us to read on: what is open is the one whose turn it is,
// or is read to its end at once.
func TestFetchInOrderKeepsNobodyWaiting(t *testing.T) {
	rec := &recorder{Store: blob.NewMemory()}
	c := New(rec, Config{})
	s, closure := wide(t, c)
	large := map[string]nix.StorePath{}
	for i := range closure.Paths {
		if ni := &closure.Paths[i]; len(s.nars[ni.Path]) > chunksAhead*chunkSize {
			large[ni.URL] = ni.Path
		}
	}
	rec.requests("")
	seen := map[string]bool{}
	err := c.FetchInOrder(t.Context(), closure, sinkFunc(func(path nix.StorePath, r io.Reader) error {
		for _, request := range rec.requests("") {
			seen[request] = true
		}
		for request := range seen {
			for url, other := range large {
				if strings.HasSuffix(request, url) && other.Compare(path) > 0 {
					t.Errorf("%s was begun when it was the turn of %s", other, path)
				}
			}
		}
		_, err := io.Copy(io.Discard, r)
		return err
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever ends it early, nothing goes on behind its back.
func TestFetchInOrderEnds(t *testing.T) {
	c := New(blob.NewMemory(), Config{})
	_, closure := wide(t, c)
	before := runtime.NumGoroutine()
	for name, end := range map[string]func(stop func()) sinkFunc{
		"the sink fails": func(func()) sinkFunc {
			return func(nix.StorePath, io.Reader) error { return errors.New("full") }
		},
		"the sink doesn't read all": func(func()) sinkFunc {
			return func(nix.StorePath, io.Reader) error { return nil }
		},
		"the context ends": func(stop func()) sinkFunc {
			return func(_ nix.StorePath, r io.Reader) error {
				stop()
				_, err := io.Copy(io.Discard, r)
				return err
			}
		},
	} {
		ctx, stop := context.WithCancel(t.Context())
		if err := c.FetchInOrder(ctx, closure, end(stop), nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		stop()
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, before it were %d", after, before)
	}
}
