package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// A format is one of a get's, and how stock Nix judges what it has left, in dir,
// of a root whose closure is what is wanted.
type format struct {
	judge func(t testing.TB, r *rig, dir string, want []nix.PathInfo, root nix.StorePath)

	// What, by its name alone, can be taken for a result of this format. Where
	// it is missing generation.json says when all is there.
	result string
}

var formats = map[string]format{
	"rootfs":  {judgeRootfs, ""},
	"cache":   {judgeCache, ""},
	"result":  {judgeResult, "result"},
	"archive": {judgeArchive, "closure.tar.gz"},
}

func judgeRootfs(t testing.TB, r *rig, dir string, want []nix.PathInfo, root nix.StorePath) {
	t.Helper()
	if diff := cmp.Diff(facts(want), facts(restored(t, r.nix, dir, root.String()))); diff != "" {
		t.Errorf("the store in rootfs (-want +got):\n%s", diff)
	}
}

func judgeCache(t testing.TB, r *rig, dir string, _ []nix.PathInfo, root nix.StorePath) {
	t.Helper()
	cache := "file://" + filepath.Join(dir, "cache")
	r.store.Run(t, "nix", "store", "verify", "--store", cache, "--recursive", "--trusted-public-keys", r.key.Public, root.String())
}

func judgeResult(t testing.TB, r *rig, dir string, want []nix.PathInfo, root nix.StorePath) {
	t.Helper()
	hash := r.store.Run(t, "nix-hash", "--type", "sha256", "--base32", filepath.Join(dir, "result"))
	for _, info := range want {
		if info.Path == root && info.NarHash.String() != "sha256:"+hash {
			t.Errorf("result has the hash %s, want %s", hash, info.NarHash)
		}
	}
}

func judgeArchive(t testing.TB, r *rig, dir string, want []nix.PathInfo, _ nix.StorePath) {
	t.Helper()
	unpacked := nixtest.TempDir(t)
	if out, err := exec.Command("tar", "-xzf", filepath.Join(dir, "closure.tar.gz"), "-C", unpacked).CombinedOutput(); err != nil {
		t.Fatalf("unpacking the archive: %v\n%s", err, out)
	}
	store := r.nix.OpenStore(t, unpacked)
	store.Load(t, filepath.Join(unpacked, "nix-path-registration"))
	store.Run(t, "nix-store", "--verify", "--check-contents")
	// A registration has what a fingerprint has.
	var published, got []string
	for _, info := range want {
		published = append(published, info.Fingerprint())
	}
	for _, info := range store.All(t) {
		got = append(got, info.Fingerprint())
	}
	if diff := cmp.Diff(published, got); diff != "" {
		t.Errorf("the store in the archive (-published +got):\n%s", diff)
	}
}

// Killed at any instant, in leaves nothing that looks whole and isn't, whatever
// the format (promise 6).
func TestKilledIn(t *testing.T) { inEachPlace(t, testKilledIn) }

func testKilledIn(t *testing.T, cache place) {
	r := newRig(t, nixtest.Current(t), cache)
	root := r.nextSystem(t, false)
	v := must[put](t)(answer[put](r.out(root))).Version
	want := r.store.Closure(t, root)
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			get := func(kill func(func())) (dir string) {
				dir = nixtest.TempDir(t)
				cmd := r.get(dir, v, name)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				kill(func() { cmd.Process.Kill() })
				cmd.Wait()
				return dir
			}
			start := time.Now()
			dir := get(func(func()) {})
			whole := time.Since(start)
			f.judge(t, r, dir, want, root)

			unfinished := 0
			for range kills / 2 {
				moment := rand.N(whole)
				dir := get(func(kill func()) { time.AfterFunc(moment, kill) })
				switch {
				case exists(dir, "generation.json"):
				case f.result != "" && exists(dir, f.result):
					unfinished++
				default:
					unfinished++
					continue
				}
				if f.judge(t, r, dir, want, root); t.Failed() {
					t.Fatalf("killed after %v it looks whole, and isn't", moment)
				}
			}
			t.Logf("%d of %d were killed before they were done, within %v", unfinished, kills/2, whole)
		})
	}
}

func exists(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

// An image of 2 GB, mostly holes, arrives byte for byte, and as holes; neither a
// put nor a get has more of it in memory than of any other path, nor has the
// archive of it (promise 9).
func TestSparseImage(t *testing.T) {
	t.Parallel()
	r := newRig(t, nixtest.Current(t), directory(t.TempDir()))
	expression := `{ image = (import ./lib.nix).build "image.raw" { } "for at in 0 7 1000 2047; do dd if=/dev/urandom of=$out bs=1M seek=$at count=1 conv=notrunc; done"; }`
	file := filepath.Join(r.sources, "config", "image.nix")
	if err := os.WriteFile(file, []byte(expression), 0o644); err != nil {
		t.Fatal(err)
	}
	root := r.store.Build(t, file, "image")
	const data, memory = 4 << 20, 160 << 20 // bytes

	out := r.out(root)
	out.measured = true
	v := must[put](t)(answer[put](out)).Version
	dir := nixtest.TempDir(t)
	in := r.get(dir, v, "result")
	in.measured = true
	must[put](t)(answer[put](in))
	archive := call("in", nixtest.TempDir(t), []string{}, map[string]any{
		"source": r.follower(), "version": v, "params": map[string]any{"format": "archive", "compression": "zstd"},
	})
	archive.measured = true
	must[put](t)(answer[put](archive))
	for name, peak := range map[string]int64{"out": out.peak, "in": in.peak, "in, for an archive,": archive.peak} {
		t.Logf("%s had %d MiB in memory", name, peak>>20)
		if peak == 0 || peak > memory {
			t.Errorf("%s had %d bytes in memory, want at most %d", name, peak, memory)
		}
	}

	judgeResult(t, r, dir, r.store.Closure(t, root), root)
	info := must[os.FileInfo](t)(os.Stat(filepath.Join(dir, "result")))
	if info.Size() != 2<<30 {
		t.Errorf("it has %d bytes", info.Size())
	}
	if disk := info.Sys().(*syscall.Stat_t).Blocks * 512; disk > data+1<<20 {
		t.Errorf("it takes %d bytes on the disk, and %d are data", disk, data)
	}
}

// measure looks at how much memory a running program has had, until the function
// that it returns is called, which returns the most that was seen, in bytes. (What
// the kernel says at its end counts what its parent had.)
func (p *program) measure() func() int64 {
	over, most := make(chan struct{}), make(chan int64, 1)
	go func() {
		var peak int64
		for {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
			if _, after, ok := strings.Cut(string(status), "VmHWM:"); ok {
				var kib int64
				fmt.Sscan(after, &kib)
				peak = max(peak, kib<<10)
			}
			select {
			case <-over:
				most <- peak
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		close(over)
		return <-most
	}
}
