package blob_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/blobtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

func TestDirectory(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return blob.NewDirectory(t.TempDir()) })
}

func TestDirectoryBetweenProcesses(t *testing.T) {
	const processes, increments = 4, 25
	store, dir := counterIn(t)
	var running []*exec.Cmd
	for range processes {
		cmd := process(t, "increment", dir, strconv.Itoa(increments))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	got, _, err := blob.ReadAll(t.Context(), store, "counter", 100, blob.GetOptions{})
	if err != nil || string(got) != strconv.Itoa(processes*increments) {
		t.Errorf("%d processes counted to %s instead of %d (error %v)", processes, got, processes*increments, err)
	}
}

func counterIn(t *testing.T) (*blob.Directory, string) {
	t.Helper()
	dir := t.TempDir()
	store := blob.NewDirectory(dir)
	if _, err := store.Put(t.Context(), "counter", strings.NewReader("0"), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	return store, dir
}

// TestDirectoryKilledWriters kills writers in the middle of what they do: what
// can be seen afterwards is whole, and nothing keeps the next one from writing.
func TestDirectoryKilledWriters(t *testing.T) {
	store, dir := counterIn(t)
	for round := range 5 {
		var running []*exec.Cmd
		for range 2 {
			cmd := process(t, "write", dir)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// The first round dies in the body of an object, the others later.
			if _, err := io.ReadFull(stdout, make([]byte, (1+round*4)*len("writing\n")-round%5)); err != nil {
				t.Fatal(err)
			}
			running = append(running, cmd)
		}
		for _, cmd := range running {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
		}
		for info, err := range store.List(t.Context(), "dir/") {
			if err != nil {
				t.Fatal(err)
			}
			data, _, err := blob.ReadAll(t.Context(), store, info.Key, 2<<20, blob.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(data, bytes.Repeat(data[:1], 2<<20)) {
				t.Errorf("%s is visible in part: %d bytes", info.Key, len(data))
			}
		}
		unlocked := make(chan error)
		go func() { unlocked <- blobtest.Increment(t.Context(), store, "counter") }()
		select {
		case err := <-unlocked:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("a dead writer's lock is still there")
		}
	}
}

func TestDirectoryMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet")
	store := blob.NewDirectory(dir)
	_, err := store.Get(t.Context(), "object", blob.GetOptions{})
	if !errors.Is(err, blob.ErrNotExist) || len(hint.Of(err)) != 1 || !strings.Contains(hint.Of(err)[0], dir) {
		t.Errorf("the error is %v, with the hints %q", err, hint.Of(err))
	}
	for info, err := range store.List(t.Context(), "") {
		t.Errorf("listed %v, error %v", info, err)
	}
	if err := store.Delete(t.Context(), "object"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading has created it: %v", err)
	}
	if _, err := store.Put(t.Context(), "object", strings.NewReader("x"), blob.PutOptions{}); err != nil {
		t.Error(err)
	}
}

// TestDirectoryFiles looks at what others will see: other users' web servers,
// and Nix.
func TestDirectoryFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	store := blob.NewDirectory(dir)
	for range 2 {
		if _, err := store.Put(t.Context(), "nar/object", strings.NewReader("contents"), blob.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	got := make(map[string]string)
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		stat, err := entry.Info()
		if err != nil {
			return err
		}
		relative, _ := filepath.Rel(dir, name)
		got[relative] = stat.Mode().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{".": "drwxr-xr-x", "nar": "drwxr-xr-x", "nar/object": "-rw-r--r--"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with the usual umask (-want +got)\n%s", diff)
	}
}

func TestDirectoryTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	young, old := filepath.Join(dir, blob.TempPrefix+"young"), filepath.Join(dir, blob.TempPrefix+"old")
	for _, name := range []string{young, old} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	yesterday := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	store := blob.NewDirectory(dir)
	for info, err := range store.List(t.Context(), "") {
		t.Errorf("listed %v, error %v", info, err)
	}
	if _, err := store.Put(t.Context(), "object", strings.NewReader("x"), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("a file that may have a writer is gone: %v", err)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an abandoned file is still there: %v", err)
	}
}

func TestDirectorySymlinks(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"file": filepath.Join(outside, "secret"), "dir": outside, "up": "..", "self": "self"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	store := blob.NewDirectory(dir)
	for _, key := range []string{"file", "dir/secret", "up/" + filepath.Base(outside) + "/secret", "self"} {
		if object, err := store.Get(t.Context(), key, blob.GetOptions{}); err == nil {
			object.Body.Close()
			t.Errorf("%s was read", key)
		}
	}
	for _, key := range []string{"dir/new", "up/new"} {
		if _, err := store.Put(t.Context(), key, strings.NewReader("x"), blob.PutOptions{}); err == nil {
			t.Errorf("%s was written", key)
		}
		if err := store.Delete(t.Context(), "dir/secret"); err == nil {
			t.Error("dir/secret was deleted")
		}
	}
	for info, err := range store.List(t.Context(), "") {
		t.Errorf("listed %v, error %v", info, err)
	}
	if _, err := store.Put(t.Context(), "file", strings.NewReader("new"), blob.PutOptions{}); err != nil {
		t.Errorf("replacing a symbolic link: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "secret")); string(got) != "secret" {
		t.Errorf("written through a symbolic link: %q, %v", got, err)
	}
}

func TestDirectoryLargeObjectsHaveNoETag(t *testing.T) {
	store := blob.NewDirectory(t.TempDir())
	data := make([]byte, 1<<20+1)
	large, err := store.Put(t.Context(), "object", bytes.NewReader(data), blob.PutOptions{})
	if err != nil || large.ETag != "" {
		t.Errorf("got %+v, error %v", large, err)
	}
	if _, err := store.Get(t.Context(), "object", blob.GetOptions{}); err != nil {
		t.Error(err)
	}
	_, err = store.Put(t.Context(), "object", bytes.NewReader(data), blob.PutOptions{IfMatch: `"etag"`})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("the error is %v", err)
	}
	small, err := store.Put(t.Context(), "object", bytes.NewReader(data[1:]), blob.PutOptions{})
	if err != nil || small.ETag == "" {
		t.Errorf("got %+v, error %v", small, err)
	}
}
