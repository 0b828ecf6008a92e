package cache

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// fleet makes hosts that share 38 paths, glibc, which all of them refer to,
// among them, and have two of their own each. What day it is shows in one of the
// shared paths and in the hosts' systems.
func fleet(t testing.TB, s *store, hosts int, day string) []nix.StorePath {
	glibc := s.add(t, "glibc", "what all refer to")
	shared := []nix.StorePath{glibc, s.add(t, "motd-"+day, day, glibc)}
	for i := range 36 {
		shared = append(shared, s.add(t, fmt.Sprintf("package-%d", i), strings.Repeat("a package ", i), glibc))
	}
	var roots []nix.StorePath
	for i := range hosts {
		etc := s.add(t, fmt.Sprintf("etc-%d", i), fmt.Sprint("of host ", i), glibc)
		roots = append(roots, s.add(t, fmt.Sprintf("nixos-system-web-%d-%s", i, day), "a system", append(slices.Clone(shared), etc)...))
	}
	return roots
}

// union is what a push of several roots is asked for.
func (s *store) union(roots ...nix.StorePath) PushRequest {
	infos := map[nix.StorePath]nix.PathInfo{}
	for _, root := range roots {
		for _, info := range s.closure(root) {
			infos[info.Path] = info
		}
	}
	return PushRequest{Root: roots[0], Also: roots[1:], Infos: slices.Collect(maps.Values(infos)), Source: s}
}

// Fifty hosts that share most of their paths cost what the union of their
// closures costs, and a few requests for each host.
func TestPushOfManyRoots(t *testing.T) {
	const hosts = 50
	s, key := &store{}, newKey(t, "test-1")
	roots := fleet(t, s, hosts, "monday")
	rec := &recorder{Store: blob.NewMemory()}
	open := func() *Cache { return New(rec, Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}}) }
	count := func(requests []string, is func(string) bool) (n int) {
		for _, r := range requests {
			if is(r) {
				n++
			}
		}
		return n
	}
	begins := func(prefix string) func(string) bool {
		return func(r string) bool { return strings.HasPrefix(r, prefix) }
	}
	narinfos := func(method string) func(string) bool {
		return func(r string) bool { return strings.HasPrefix(r, method) && strings.HasSuffix(r, ".narinfo") }
	}

	pushed, err := open().Push(t.Context(), s.union(roots...))
	if err != nil {
		t.Fatal(err)
	}
	requests := rec.requests("")
	for what, counted := range map[string][2]int{
		"NARs sent":       {38 + 2*hosts, count(requests, begins("PUT nar/"))},
		"narinfos sent":   {38 + 2*hosts, count(requests, narinfos("PUT"))},
		"manifests":       {hosts, count(requests, begins("PUT closures/"))},
		"leases":          {hosts, count(requests, begins("PUT leases/"))},
		"narinfos of new": {0, count(requests, narinfos("GET"))},
		"paths sent":      {38 + 2*hosts, pushed.SentPaths},
		"other closures":  {hosts - 1, len(pushed.Also)},
	} {
		if counted[0] != counted[1] {
			t.Errorf("%s: want %d, got %d", what, counted[0], counted[1])
		}
	}
	if err := pushed.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if leases := keys(t, rec.Store, "leases/"); leases != nil {
		t.Errorf("leases left behind: %v", leases)
	}

	// All is there: a request for each.
	rec.requests("")
	today := open()
	closures, err := today.Closures(t.Context(), roots)
	if err != nil || len(closures) != hosts {
		t.Fatalf("found %d of %d closures (%v)", len(closures), hosts, err)
	}
	if requests := rec.requests(""); len(requests) != hosts {
		t.Errorf("%d requests to find %d closures:\n%s", len(requests), hosts, strings.Join(requests, "\n"))
	}
	previous := slices.Collect(maps.Values(closures))
	again := s.union(roots...)
	again.Previous = previous
	if pushed, err = today.Push(t.Context(), again); err != nil || pushed.SentPaths != 0 {
		t.Errorf("pushing again sent %d paths (%v)", pushed.SentPaths, err)
	}
	if requests := rec.requests(""); len(requests) != 0 {
		t.Errorf("requests for what is known to be there:\n%s", strings.Join(requests, "\n"))
	}

	// One path that all share changes, and so does each system.
	s.dumped()
	next := fleet(t, s, hosts, "tuesday")
	request := s.union(next...)
	request.Previous = previous
	if pushed, err = today.Push(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if n := len(s.dumped()); n != 1+hosts || pushed.SentPaths != 1+hosts {
		t.Errorf("read %d and sent %d paths, want %d", n, pushed.SentPaths, 1+hosts)
	}
	requests = rec.requests("")
	if n := count(requests, narinfos("GET")); n != 1+hosts {
		t.Errorf("asked for %d narinfos, want those of the %d new paths", n, 1+hosts)
	}
	if n := len(slices.DeleteFunc(requests, begins("HAS"))); n > 3*(1+hosts)+3*hosts {
		t.Errorf("%d requests for %d new paths and %d closures", n, 1+hosts, hosts)
	}
	if found, err := open().Closures(t.Context(), append(next, roots...)); err != nil || len(found) != 2*hosts {
		t.Errorf("found %d of %d closures (%v)", len(found), 2*hosts, err)
	}
}

// Closures tells those that are whole from those that aren't, with manifests and
// without, and gives a failing store for neither.
func TestClosuresOfMany(t *testing.T) {
	s, key, stranger := &store{}, newKey(t, "test-1"), newKey(t, "stranger-1")
	roots := fleet(t, s, 4, "monday")
	rec := &recorder{Store: blob.NewMemory()}
	config := Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}}
	if _, err := New(rec, config).Push(t.Context(), s.union(roots[:3]...)); err != nil {
		t.Fatal(err)
	}
	strange := New(rec, Config{SigningKeys: []nix.SecretKey{stranger}})
	if _, err := strange.Push(t.Context(), s.union(roots[3])); err != nil { // its two own paths
		t.Fatal(err)
	}
	found := func() (names []string) {
		t.Helper()
		closures, err := New(rec, config).Closures(t.Context(), append(roots, s.add(t, "absent", "")))
		if err != nil {
			t.Fatal(err)
		}
		for root := range closures {
			names = append(names, root.Name())
		}
		slices.Sort(names)
		return names
	}
	want := []string{"nixos-system-web-0-monday", "nixos-system-web-1-monday", "nixos-system-web-2-monday"}
	if diff := cmp.Diff(want, found()); diff != "" {
		t.Errorf("with manifests (-want +got)\n%s", diff)
	}
	for _, key := range keys(t, rec.Store, "closures/") {
		if err := rec.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	rec.requests("")
	if diff := cmp.Diff(want, found()); diff != "" {
		t.Errorf("without manifests (-want +got)\n%s", diff)
	}
	asked := rec.requests("GET")
	slices.Sort(asked)
	if once := slices.Compact(slices.Clone(asked)); len(asked) != len(once) {
		t.Errorf("%d requests for %d objects", len(asked), len(once))
	}
	etc := roots[1]
	for _, info := range s.closure(roots[1]) {
		if info.Path.Name() == "etc-1" {
			etc = info.Path
		}
	}
	if err := rec.Delete(t.Context(), narinfoKey(etc)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Delete(want, 1, 2), found()); diff != "" {
		t.Errorf("with a hole in one (-want +got)\n%s", diff)
	}
	rec.fail = func(request string) error {
		if request == "GET "+narinfoKey(etc) {
			return errors.New("the store is down")
		}
		return nil
	}
	if _, err := New(rec, config).Closures(t.Context(), roots); err == nil {
		t.Error("took a store that fails for one that hasn't got it")
	}
}

// Killed at any write, the union is valid, each manifest vouches for what is
// there, and pushing again finishes it.
func TestPushOfManyRootsInterruptedAnywhere(t *testing.T) {
	s := &store{}
	glibc := s.add(t, "glibc", "what all refer to")
	var roots []nix.StorePath
	for i := range 3 {
		roots = append(roots, s.add(t, fmt.Sprint("system-", i), "a system", glibc))
	}
	for n := 1; ; n++ {
		place := blob.NewMemory()
		var mu sync.Mutex
		writes := 0
		rec := &recorder{Store: place, fail: func(request string) error {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasPrefix(request, "PUT") {
				if writes++; writes >= n {
					return errors.New("cut off")
				}
			}
			return nil
		}}
		_, err := New(rec, Config{}).Push(t.Context(), s.union(roots...))
		if err == nil {
			if n < 3*4 {
				t.Errorf("the push takes only %d writes", n)
			}
			return
		}
		checkValid(t, place)
		for _, key := range keys(t, place, "closures/") {
			for block := range strings.SplitSeq(read(t, place, key), "\n\n") {
				ni, err := ParseNarInfo(block)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := place.Stat(t.Context(), narinfoKey(ni.Path)); err != nil {
					t.Errorf("after %d writes: %s lists %s: %v", n-1, key, ni.Path, err)
				}
			}
		}
		if leases := keys(t, place, "leases/"); leases != nil {
			t.Errorf("after %d writes, a push that has failed by itself leaves leases: %v", n-1, leases)
		}
		if _, err := New(place, Config{}).Push(t.Context(), s.union(roots...)); err != nil {
			t.Fatalf("after %d writes: %v", n-1, err)
		}
		checkValid(t, place)
		if closures, err := New(place, Config{}).Closures(t.Context(), roots); err != nil || len(closures) != 3 {
			t.Errorf("after %d writes and a second push there are %d closures (%v)", n-1, len(closures), err)
		}
	}
}

// What was accepted once is taken from the same text alone.
func TestAcceptedNarinfosAreNoExcuse(t *testing.T) {
	s, key := &store{}, newKey(t, "test-1")
	roots := fleet(t, s, 2, "monday")
	place := blob.NewMemory()
	config := Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}}
	if _, err := New(place, config).Push(t.Context(), s.union(roots...)); err != nil {
		t.Fatal(err)
	}
	reader := New(place, config)
	if _, err := reader.Closure(t.Context(), roots[0]); err != nil {
		t.Fatal(err)
	}
	forged := strings.ReplaceAll(read(t, place, manifestKey(roots[1])), "NarSize: ", "NarSize: 1")
	write(t, place, manifestKey(roots[1]), forged)
	closure, err := reader.Closure(t.Context(), roots[1])
	if err != nil {
		t.Fatal(err)
	}
	for _, ni := range closure.Paths {
		if diff := cmp.Diff(read(t, place, narinfoKey(ni.Path)), ni.Text()); diff != "" {
			t.Errorf("%s was taken from a forged manifest (-cache +taken)\n%s", ni.Path, diff)
		}
	}
}

// Fifty systems of two thousand paths, nearly all of which they share, as a put
// finds them when nothing has changed; and what it then holds in memory.
func BenchmarkClosuresOfFleet(b *testing.B) {
	const hosts, shared, own = 50, 1900, 100
	key := newKey(b, "test-1")
	config := Config{RequireSigs: true, SigningKeys: []nix.SecretKey{key}}
	place := blob.NewDirectory(b.TempDir())
	made := &store{}
	narinfo := func(name string, refs ...nix.StorePath) NarInfo {
		made.add(b, name, "", refs...)
		info := made.infos[len(made.infos)-1]
		made.infos = nil // of these, only the narinfos are wanted
		ni := NarInfo{PathInfo: info, URL: "nar/" + name + ".nar.zst", Compression: "zstd", FileHash: info.NarHash, FileSize: info.NarSize}
		ni.Sign(config.SigningKeys)
		return ni
	}
	var packages []NarInfo
	for i := range shared {
		var refs []nix.StorePath
		for _, ni := range packages[max(0, i-8):] {
			refs = append(refs, ni.Path)
		}
		packages = append(packages, narinfo(fmt.Sprint("package-", i), refs...))
	}
	var roots []nix.StorePath
	for host := range hosts {
		paths, refs := slices.Clone(packages), []nix.StorePath{}
		for i := range own - 1 {
			paths = append(paths, narinfo(fmt.Sprintf("own-%d-%d", host, i), packages[i].Path))
		}
		for _, ni := range paths {
			refs = append(refs, ni.Path)
		}
		system := narinfo(fmt.Sprint("system-", host), refs...)
		roots = append(roots, system.Path)
		if err := New(place, config).writeManifest(b.Context(), &Closure{Root: system.Path, Paths: append(paths, system)}); err != nil {
			b.Fatal(err)
		}
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for b.Loop() {
		c := New(place, config)
		closures, err := c.Closures(b.Context(), roots)
		if err != nil || len(closures) != hosts {
			b.Fatal(len(closures), err)
		}
		b.StopTimer()
		b.ReportMetric(float64(heap()-before)/(1<<20), "MiB")
		b.StartTimer()
		runtime.KeepAlive(closures)
	}
}
