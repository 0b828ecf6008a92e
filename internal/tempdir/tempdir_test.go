package tempdir

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// As a child, the test makes a directory with something in it, says where it is,
// and keeps it until its stdin ends.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "make" {
		dir, err := New("child")
		if err == nil {
			err = os.WriteFile(filepath.Join(dir.Path(), "file"), nil, 0o400)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(dir.Path())
		io.Copy(io.Discard, os.Stdin)
		return // and leaves it, as if killed
	}
	os.Exit(m.Run())
}

// A child is a process that has made a directory.
type child struct {
	*exec.Cmd
	stdin io.Closer
	dir   string
}

func newChild(t *testing.T) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(os.Args[0], "make")}
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdin = stdin
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	c.dir = strings.TrimSpace(line)
	if _, err := os.Stat(filepath.Join(c.dir, "file")); err != nil {
		t.Fatalf("the child says %q: %v", line, err)
	}
	return c
}

func isThere(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// What a process has left that was killed is removed by the next one that makes a
// directory; what another one uses is left alone.
func TestLeftBehind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	killed, running := newChild(t), newChild(t)
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed.Wait()
	if !isThere(t, killed.dir) {
		t.Fatal("it is gone with the process: this test tests nothing")
	}
	next := newChild(t)
	if isThere(t, killed.dir) {
		t.Error("what was left behind is there still")
	}
	if !isThere(t, running.dir) {
		t.Error("what a process uses was removed")
	}
	for _, c := range []*child{running, next} {
		c.stdin.Close()
		c.Wait()
	}
}

// What somebody else has made stays, whatever it is called.
func TestOthers(t *testing.T) {
	parent := t.TempDir()
	outside := filepath.Join(t.TempDir(), "file")
	for _, dir := range []string{"nixos-closure-1", "tmp-1", prefix + "others", prefix + "ours"} {
		if err := os.Mkdir(filepath.Join(parent, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.WriteFile(outside, nil, 0o600),
		os.WriteFile(filepath.Join(parent, prefix+"file"), nil, 0o600),
		os.Symlink(filepath.Dir(outside), filepath.Join(parent, prefix+"link")),
		os.Symlink(filepath.Dir(outside), filepath.Join(parent, prefix+"ours", "link")),
	)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"nixos-closure-1", "tmp-1", prefix + "file", prefix + "link"}
	if os.Getuid() == 0 {
		if err := os.Chown(filepath.Join(parent, prefix+"others"), 1234, 1234); err != nil {
			t.Fatal(err)
		}
		want = append(want, prefix+"others")
	}
	sweep(parent)
	for _, name := range want {
		if !isThere(t, filepath.Join(parent, name)) {
			t.Errorf("%s was removed", name)
		}
	}
	if !isThere(t, outside) {
		t.Error("what a symlink leads to was removed")
	}
	if isThere(t, filepath.Join(parent, prefix+"ours")) {
		t.Error("our own is there still")
	}
}

// Nobody loses a directory to another who looks for left ones, however the two
// meet.
func TestRace(t *testing.T) {
	parent := t.TempDir()
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			for range 100 {
				dir, err := newIn(parent, "race")
				if err != nil {
					return err
				}
				file := filepath.Join(dir.Path(), "file")
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					return err
				}
				sweep(parent)
				if _, err := os.Stat(file); err != nil {
					return err
				}
				if err := dir.Remove(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestNowhere(t *testing.T) {
	if _, err := newIn(filepath.Join(t.TempDir(), "missing"), "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v, want fs.ErrNotExist", err)
	}
	var none *Dir
	if err := none.Remove(); err != nil {
		t.Error(err)
	}
}
