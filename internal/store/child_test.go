package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What only tests ask the child that reads databases.
const (
	askWhatItHas = "what it has"
	askMemory    = "memory"
)

// It is a variable so that it is set before the child's init runs.
var _ = func() bool {
	questions[askWhatItHas] = func(_ context.Context, _ *sql.Conn, _ []string, say func(row) error) error {
		files, err := os.ReadDir("/proc/self/fd")
		if errors.Is(err, os.ErrNotExist) { // in its root there is none
			err = nil
			for fd := range 64 {
				if f := os.NewFile(uintptr(fd), ""); f != nil {
					if _, statErr := f.Stat(); statErr == nil {
						files = append(files, nil)
					}
				}
			}
		}
		interfaces, netErr := net.Interfaces()
		up := 0
		for _, i := range interfaces {
			if i.Flags&net.FlagUp != 0 {
				up++
			}
		}
		_, rootErr := os.Stat("/etc")
		return errors.Join(err, netErr, say(row{Path: fmt.Sprintf("%d variables, %d arguments, uid %d, /etc: %v, %d interfaces up", len(os.Environ()), len(os.Args), os.Geteuid(), rootErr == nil, up)}))
	}
	questions[askMemory] = func(_ context.Context, _ *sql.Conn, _ []string, say func(row) error) error {
		big := make([]byte, 2*childMemory)
		for i := range big {
			big[i] = 1
		}
		return say(row{Path: fmt.Sprint(len(big))})
	}
	return true
}()

// The child that parses a stranger's database has nothing to take, and nowhere to
// take it.
func TestChildHasNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become nobody")
	}
	t.Setenv("A_SECRET", "s3cret")
	dir, _, _ := directory(t, "")
	d, err := OpenDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := ""
	if err := d.ask(t.Context(), func(r row) error { got = r.Path; return nil }, askWhatItHas); err != nil {
		t.Fatal(err)
	}
	if want := "0 variables, 2 arguments, uid 65534, /etc: false, 0 interfaces up"; got != want {
		t.Errorf("it has %s, want %s", got, want)
	}
	// What the database was copied to is still ours, to remove if we are killed.
	var stat unix.Stat_t
	if err := unix.Stat(d.copy.Path(), &stat); err != nil || stat.Uid != 0 {
		t.Errorf("the temporary directory belongs to user %d: %v", stat.Uid, err)
	}
}

// It takes no more memory than it may.
func TestChildIsBounded(t *testing.T) {
	dir, _, _ := directory(t, "")
	d, err := OpenDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = d.ask(t.Context(), func(r row) error { return fmt.Errorf("it took %s bytes", r.Path) }, askMemory)
	if err == nil || !strings.Contains(err.Error(), "MiB of memory") {
		t.Errorf("got %v", err)
	}
}

// Databases that are small and become large when they are read, or take for ever.
func TestDatabaseBombs(t *testing.T) {
	for name, test := range map[string]struct{ change, want string }{
		"a computed column": {"alter table ValidPaths add column bomb text as (hex(zeroblob(450000000)))", "is not that of a store"},
		"a column computed in place of Nix's": {"alter table ValidPaths drop column ca; alter table ValidPaths add column ca text as (hex(zeroblob(450000000)))",
			"is not that of a store"},
		"a large value":           {"update ValidPaths set deriver = zeroblob(100000000)", "too big"},
		"references unindexed":    {"drop index IndexReferrer", "is not that of a store"},
		"a table without its key": {"alter table Refs rename to r; create table Refs as select * from r", "is not that of a store"},
		"an index that computes":  {"create index bomb on ValidPaths(hex(zeroblob(10)))", "is not that of a store"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _, b := directory(t, "pragma foreign_keys = off; "+test.change)
			d, err := OpenDirectory(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			_, err = d.Closure(t.Context(), b)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// Pipes and huge files in place of the small ones are refused at once.
func TestDirectoryWithOddFiles(t *testing.T) {
	for name, damage := range map[string]func(file string) error{
		"a pipe":      func(file string) error { return unix.Mkfifo(file, 0o644) },
		"six GiB":     func(file string) error { return errors.Join(os.WriteFile(file, nil, 0o644), os.Truncate(file, 6<<30)) },
		"a directory": func(file string) error { return os.Mkdir(file, 0o755) },
	} {
		for _, file := range []string{"schema", "db.sqlite", "db.sqlite-wal"} {
			t.Run(name+" for "+file, func(t *testing.T) {
				dir, _, _ := directory(t, "")
				odd := dir + "/nix/var/nix/db/" + file
				os.Remove(odd)
				if err := damage(odd); err != nil {
					t.Fatal(err)
				}
				if d, err := OpenDirectory(dir); err == nil {
					d.Close()
					t.Error("it was opened")
				}
			})
		}
	}
}
