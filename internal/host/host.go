package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// A Host is this machine, with all that it follows by. The fields without a
// comment that says otherwise must be set.
type Host struct {
	Config  Config
	Pointer *pointer.Pointer
	Cache   *cache.Cache

	// Reach reads the pointer over a new connection: whoever can do that, can be
	// told to run something else.
	Reach func(context.Context) error

	// Reports is where reports are written, if the host reports.
	Reports blob.Store

	Log func(format string, args ...any) // what is being done, a line at a time

	Now   func() time.Time                           // nil for the system's clock
	Sleep func(context.Context, time.Duration) error // waits for a soak to be over; nil for a real one
	Pause func(context.Context, time.Duration) error // waits until a red check is tried again, which an error prevents; nil for a real one
	Self  string                                     // this program; "" to ask the kernel
	Boot  func() (string, error)                     // names the present boot; nil to ask the kernel

	// Changed is called after each step that has changed something on disk or on
	// the machine. Tests end the process there. It may be nil.
	Changed func(step string)
}

// A Request is what a person, or a timer, asks of a run.
type Request struct {
	Now             bool // wait for no spread and no pause, and go over a hold and over what was changed by hand
	Retry           bool // try a generation again that has failed here
	TrustOnFirstUse bool // accept a pointer of which nothing is remembered
}

func (h *Host) now() time.Time {
	if h.Now == nil {
		return time.Now()
	}
	return h.Now()
}

func (h *Host) sleep(ctx context.Context, d time.Duration) error {
	if h.Sleep != nil {
		return h.Sleep(ctx, d)
	}
	return sleep(ctx, d)
}

func (h *Host) pause(ctx context.Context, d time.Duration) error {
	if h.Pause != nil {
		return h.Pause(ctx, d)
	}
	return sleep(ctx, d)
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *Host) bootID() (string, error) {
	if h.Boot != nil {
		return h.Boot()
	}
	return bootID()
}

func (h *Host) self() (string, error) {
	if h.Self != "" {
		return h.Self, nil
	}
	return os.Executable()
}

// errBusy says that another run is under way.
var errBusy = errors.New("another run is under way")

// A lock keeps two runs apart. The kernel gives it up with the process, so that
// none is ever left behind.
type lock struct{ file *os.File }

const lockFile = "lock"

// takeLock takes the lock of a state directory, or returns errBusy.
func takeLock(dir string) (*lock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errBusy
		}
		return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	self, err := describeProcess(os.Getpid())
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(self.String()), 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &lock{f}, nil
}

// release gives the lock up.
func (l *lock) release() error { return l.file.Close() }

// endHolder ends the process that holds the lock, and takes it.
func endHolder(ctx context.Context, dir string) (*lock, error) {
	for {
		l, err := takeLock(dir)
		if !errors.Is(err, errBusy) {
			return l, err
		}
		data, err := os.ReadFile(filepath.Join(dir, lockFile))
		if err != nil {
			return nil, err
		}
		if holder, err := parseProcess(string(data)); err == nil {
			if now, err := describeProcess(holder.pid); err == nil && now.started == holder.started && now.boot == holder.boot {
				unix.Kill(holder.pid, unix.SIGKILL)
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
