package cache

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// copyAll pushes the whole closure of root in origin to another cache.
func copyAll(t testing.TB, to, origin *Cache, root nix.StorePath) (*Pushed, error) {
	t.Helper()
	closure, err := origin.Closure(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	return to.Push(t.Context(), PushRequest{Root: root, Infos: closure.Infos(), Source: origin.Source(closure)})
}

// From cache to cache goes only what is missing there, file by file as it is,
// and it is signed again.
func TestPushFromAnotherCache(t *testing.T) {
	ours, theirs := newKey(t, "ours-1"), newKey(t, "theirs-1")
	s, root := sample(t)
	there := &recorder{Store: blob.NewMemory()}
	push(t, New(there, Config{SigningKeys: []nix.SecretKey{theirs}, CompressionLevel: 19}), s, root)
	origin := New(there, Config{RequireSigs: true, PublicKeys: nix.Keys{theirs.Public()}})

	for _, test := range []struct {
		name, compression string
		asIs              bool
	}{{"of the same compression", "zstd", true}, {"of another", "none", false}} {
		t.Run(test.name, func(t *testing.T) {
			here := blob.NewMemory()
			c := New(here, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{ours}, Compression: test.compression})
			push(t, c, s, s.infos[1].Path) // a-1 and lib-1
			there.requests("")

			pushed, err := copyAll(t, c, origin, root)
			if err != nil {
				t.Fatal(err)
			}
			if pushed.SentPaths != 2 {
				t.Errorf("sent %d paths, want the 2 that are missing", pushed.SentPaths)
			}
			var want []string
			for _, ni := range pushed.Closure.Paths {
				before, err := ParseNarInfo(read(t, there.Store, narinfoKey(ni.Path)))
				if err != nil {
					t.Fatal(err)
				}
				if !ni.SignedBy(nix.Keys{ours.Public()}) {
					t.Errorf("%s is not signed by us", ni.Path)
				}
				if name := ni.Path.Name(); name == "a-1" || name == "lib-1" {
					continue
				}
				want = append(want, "GET "+before.URL)
				if !ni.SignedBy(nix.Keys{theirs.Public()}) {
					t.Errorf("%s has lost the signature that it came with", ni.Path)
				}
				if same := read(t, here, ni.URL) == read(t, there.Store, before.URL); same != test.asIs {
					t.Errorf("the file of %s is the same: %v, want %v", ni.Path, same, test.asIs)
				}
			}
			slices.Sort(want)
			got := there.requests("GET nar/")
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("files that were fetched (-want +got)\n%s", diff)
			}
			checkValid(t, here)
		})
	}
}

// What the origin's narinfo promises is held against every byte, whether the
// file is taken as it is or not; what it doesn't hold for never becomes visible.
func TestPushFromDamagedCache(t *testing.T) {
	for _, compression := range []string{"zstd", "none"} {
		for _, name := range []string{"lib-1", "b-1"} { // a small file, and a large one
			t.Run(name+" to "+compression, func(t *testing.T) {
				s, root := sample(t)
				there := blob.NewMemory()
				origin := New(there, Config{Compression: "zstd"})
				pushed := push(t, origin, s, root)
				i := slices.IndexFunc(pushed.Closure.Paths, func(ni NarInfo) bool { return ni.Path.Name() == name })
				victim := pushed.Closure.Paths[i]
				file := []byte(read(t, there, victim.URL))
				file[len(file)/2] ^= 1
				write(t, there, victim.URL, string(file))

				here := blob.NewMemory()
				_, err := copyAll(t, New(here, Config{Compression: compression}), origin, root)
				wantError(t, err, victim.Path.String())
				for _, path := range []nix.StorePath{victim.Path, root} {
					if _, err := here.Stat(t.Context(), narinfoKey(path)); !errors.Is(err, blob.ErrNotExist) {
						t.Errorf("%s became visible", path)
					}
				}
				checkValid(t, here)
			})
		}
	}
}

// A file of a small NAR is held in memory, so one that is padded to any length is
// not read to its end, whatever its narinfo says of its size.
func TestPaddedFileIsNotHandedOver(t *testing.T) {
	s, root := sample(t)
	there := blob.NewMemory()
	origin := New(there, Config{})
	push(t, origin, s, root)
	lib := s.infos[0].Path
	url := narOf(t, there, lib)
	frame := "\x50\x2a\x4d\x18\x00\x00\x20\x00" + strings.Repeat("p", 2<<20) // skippable
	write(t, there, url, read(t, there, url)+frame)
	edit(t, there, lib, replaceLine("FileSize:", "FileSize: 1099511627776\n"))
	remove(t, there, manifestKey(root))
	_, err := copyAll(t, New(blob.NewMemory(), Config{Compression: "zstd"}), origin, root)
	wantError(t, err, lib.String(), "longer than")
}

// endless never stops to dump.
type endless struct{ written int }

func (e *endless) DumpNAR(_ context.Context, _ nix.StorePath, w io.Writer) error {
	block := make([]byte, 1<<16)
	for {
		n, err := w.Write(block)
		e.written += n
		if err != nil {
			return err
		}
	}
}

// Promise 9: a source's word on how large a path is bounds what is read of it.
func TestPushOfSourceWithoutEnd(t *testing.T) {
	s, _ := sample(t)
	lib := s.infos[0]
	place, source := blob.NewMemory(), &endless{}
	_, err := New(place, Config{}).Push(t.Context(), PushRequest{Root: lib.Path, Infos: s.closure(lib.Path), Source: source})
	wantError(t, err, lib.Path.String(), "more than")
	if int64(source.written) > lib.NarSize {
		t.Errorf("read %d bytes of a path that is said to have %d", source.written, lib.NarSize)
	}
}

func TestRoots(t *testing.T) {
	s, root := sample(t)
	place := blob.NewMemory()
	push(t, New(place, Config{}), s, root)
	other := s.add(t, "other-1", "refers to itself")
	s.set(t, other, "refers to itself", other)
	push(t, New(place, Config{}), s, other)
	source := s.add(t, "source-1", "what other-1 is made of")
	recipe := s.add(t, "other-1.drv", "how it is made", source)
	push(t, New(place, Config{}), s, recipe)
	write(t, place, "nar/"+strings.Repeat("0", 32)+".narinfo", "not one")

	got, err := New(place, Config{}).Roots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := nix.SortPaths([]nix.StorePath{root, other})
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(nix.StorePath{}, nix.ContentAddress{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	write(t, place, strings.Repeat("0", 32)+".narinfo", "junk")
	_, err = New(place, Config{}).Roots(t.Context())
	wantError(t, err, strings.Repeat("0", 32)+".narinfo")
}
