package blob

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/ctxio"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// A Directory is a Store in a directory of a local file system: the object at
// a key is the file at that path, as in Nix's own file:// caches. The
// directory need not exist: until the first write creates it, it is empty.
//
// A write goes into a temporary file beside its goal and takes its place by
// rename(2) or link(2), holding flock(2) on the directory that contains both;
// so writers of several processes exclude one another for the length of a
// rename, and whatever kills one leaves behind no lock, and at most a
// temporary file, which nobody lists and which a writer removes a day later.
// (Where there are no hard links, what must not be there yet is kept apart by
// that lock alone.)
// What is written is synced to disk before it is visible.
//
// The ETag of a file of up to 1 MiB is the hash of its contents. A larger one
// has none, and can't be written with IfMatch.
//
// Symbolic links are followed within the directory, never out of it, and not
// listed. Since files are not directories, there can't be objects at both a
// and a/b.
type Directory struct {
	path  string
	swept sync.Map // the directories that sweep has been to
}

const (
	etagLimit    = 1 << 20        // bytes; larger files aren't hashed to compare them
	abandonedAge = 24 * time.Hour // a temporary file not written to for so long has no writer
)

var _ Store = (*Directory)(nil)

// NewDirectory returns the store in the directory at name.
func NewDirectory(name string) *Directory {
	if absolute, err := filepath.Abs(name); err == nil {
		name = absolute
	}
	return &Directory{path: name}
}

// Capabilities implements [Store].
func (d *Directory) Capabilities() Capabilities {
	return Capabilities{Write: true, Conditional: true, List: true}
}

// String implements [Store].
func (d *Directory) String() string { return d.Location().String() }

// Location implements [Store].
func (d *Directory) Location() Location {
	return Location{(&url.URL{Scheme: "file", Path: d.path}).String()}
}

// Get implements [Store].
func (d *Directory) Get(ctx context.Context, key string, opts GetOptions) (*Object, error) {
	object, err := d.get(ctx, key, opts)
	if err != nil {
		return nil, failed("reading", key, d, err)
	}
	return object, nil
}

func (d *Directory) get(ctx context.Context, key string, opts GetOptions) (*Object, error) {
	file, info, err := d.lookUp(ctx, key)
	if err != nil {
		return nil, err
	}
	if info.ETag != "" && info.ETag == opts.IfNoneMatch {
		err = ErrNotModified
	}
	if err == nil {
		err = checkOffset(opts.Offset, info.Size)
	}
	if err == nil {
		_, err = file.Seek(opts.Offset, io.SeekStart)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &Object{info, &body{ctx, d, key, file, info.Size - opts.Offset}}, nil
}

// Stat implements [Store].
func (d *Directory) Stat(ctx context.Context, key string) (Info, error) {
	file, info, err := d.lookUp(ctx, key)
	if err != nil {
		return Info{}, failed("looking up", key, d, err)
	}
	file.Close()
	return info, nil
}

func (d *Directory) lookUp(ctx context.Context, key string) (*os.File, Info, error) {
	if err := check(ctx, key); err != nil {
		return nil, Info{}, err
	}
	root, err := d.openRoot()
	if err != nil {
		return nil, Info{}, err
	}
	defer root.Close()
	return open(root, key)
}

func (d *Directory) openRoot() (*os.Root, error) {
	root, err := os.OpenRoot(d.path)
	if errors.Is(err, ErrNotExist) {
		err = hint.With(err, "the directory %s doesn't exist; the first put creates it", d.path)
	}
	return root, err
}

// open opens and describes the object at key.
func open(root *os.Root, key string) (*os.File, Info, error) {
	file, err := root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0) // so that a pipe doesn't wait for a writer
	if errors.Is(err, syscall.ENOTDIR) {
		err = fmt.Errorf("%w: %w", ErrNotExist, err) // key is a/b, and a is a file
	}
	if err != nil {
		return nil, Info{}, err
	}
	info, err := describe(file, key)
	if err != nil {
		file.Close()
	}
	return file, info, err
}

// describe returns the Info of an open file, at whatever position it is.
func describe(file *os.File, key string) (Info, error) {
	stat, err := file.Stat()
	if err != nil {
		return Info{}, err
	}
	if !stat.Mode().IsRegular() {
		return Info{}, fmt.Errorf("%w: %s is not a file", ErrNotExist, file.Name())
	}
	info := Info{Key: key, Size: stat.Size(), Modified: stat.ModTime().UTC()}
	if info.Size > etagLimit {
		return info, nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, io.NewSectionReader(file, 0, info.Size)); err != nil {
		return Info{}, err
	}
	info.ETag = fmt.Sprintf(`"%x"`, hash.Sum(nil))
	return info, nil
}

// Put implements [Store].
func (d *Directory) Put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	info, err := d.put(ctx, key, body, opts)
	if err != nil {
		return Info{}, failed("writing", key, d, err)
	}
	return info, nil
}

func (d *Directory) put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	if err := check(ctx, key); err != nil {
		return Info{}, err
	}
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return Info{}, err
	}
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return Info{}, err
	}
	defer root.Close()
	dir := path.Dir(key)
	if err := root.MkdirAll(dir, 0o755); err != nil {
		return Info{}, err
	}
	d.sweep(root, dir)

	temporary := path.Join(dir, TempPrefix+rand.Text())
	file, err := root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return Info{}, err
	}
	defer file.Close()
	defer root.Remove(temporary) // not there any more once it is renamed
	if _, err := io.Copy(file, ctxio.NewReader(ctx, body)); err != nil {
		return Info{}, err
	}
	if err := file.Sync(); err != nil {
		return Info{}, err
	}
	info, err := describe(file, key)
	if err != nil {
		return Info{}, err
	}
	return info, publish(root, temporary, key, opts)
}

// publish makes the temporary file the object at key, if opts permit it.
func publish(root *os.Root, temporary, key string, opts PutOptions) error {
	dir, err := root.Open(path.Dir(key))
	if err != nil {
		return err
	}
	defer dir.Close() // and unlock
	if err := lock(dir); err != nil {
		return err
	}
	switch {
	case opts.IfAbsent:
		err = root.Link(temporary, key)
		switch {
		case errors.Is(err, fs.ErrExist):
			err = ErrPrecondition
		case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS):
			err = renameIfAbsent(root, temporary, key)
		}
	case opts.IfMatch != "":
		if err := matches(root, key, opts.IfMatch); err != nil {
			return err
		}
		fallthrough
	default:
		err = root.Rename(temporary, key)
	}
	if err != nil {
		return err
	}
	return dir.Sync()
}

// renameIfAbsent is for file systems without hard links. The lock on the
// directory keeps other writers of ours from coming in between.
func renameIfAbsent(root *os.Root, temporary, key string) error {
	_, err := root.Lstat(key)
	switch {
	case err == nil:
		return ErrPrecondition
	case errors.Is(err, fs.ErrNotExist):
		return root.Rename(temporary, key)
	}
	return err
}

// lock waits until no other process and no other goroutine has a lock on dir,
// and locks it until it is closed. Nobody keeps one for longer than a rename.
func lock(dir *os.File) error {
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX)
		if err == nil {
			return nil
		}
		if err != syscall.EINTR {
			return hint.With(fmt.Errorf("locking %s: %w", dir.Name(), err),
				"a cache can be written to only on a file system that can lock directories (flock)")
		}
	}
}

// matches returns ErrPrecondition unless the object at key has that ETag.
func matches(root *os.Root, key, etag string) error {
	file, current, err := open(root, key)
	if errors.Is(err, ErrNotExist) {
		return ErrPrecondition
	}
	if err != nil {
		return err
	}
	file.Close()
	if current.ETag == "" {
		return fmt.Errorf("%w: an object of more than %d bytes can't be replaced conditionally", errors.ErrUnsupported, etagLimit)
	}
	if current.ETag != etag {
		return ErrPrecondition
	}
	return nil
}

// sweep removes abandoned temporary files from dir, if d has not done so yet.
// What can't be removed doesn't matter to a writer.
func (d *Directory) sweep(root *os.Root, dir string) {
	if _, done := d.swept.LoadOrStore(dir, true); done {
		return
	}
	entries, _ := fs.ReadDir(root.FS(), dir)
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), TempPrefix) {
			continue
		}
		name := path.Join(dir, entry.Name())
		if stat, err := root.Lstat(name); err == nil && time.Since(stat.ModTime()) > abandonedAge {
			root.Remove(name)
		}
	}
}

// Delete implements [Store].
func (d *Directory) Delete(ctx context.Context, key string) error {
	if err := d.delete(ctx, key); err != nil && !errors.Is(err, ErrNotExist) {
		return failed("deleting", key, d, err)
	}
	return nil
}

func (d *Directory) delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	root, err := d.openRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	file, _, err := open(root, key) // is there, and is no directory
	if err != nil {
		return err
	}
	file.Close()
	dir, err := root.Open(path.Dir(key))
	if err != nil {
		return err
	}
	defer dir.Close() // and unlock
	if err := lock(dir); err != nil {
		return err
	}
	return root.Remove(key)
}

// List implements [Store].
func (d *Directory) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		root, err := d.openRoot()
		if err == nil {
			defer root.Close()
			start, _ := path.Split(prefix)
			err = list(ctx, root, start, prefix, yield)
		}
		if err != nil && err != errStopped && !errors.Is(err, ErrNotExist) {
			yield(Info{}, fmt.Errorf("listing %s*: %w", d, err))
		}
	}
}

// errStopped ends a listing of which the caller has seen enough.
var errStopped = errors.New("stopped")

// list yields the objects below dir, which is empty or ends with a slash.
func list(ctx context.Context, root *os.Root, dir, prefix string, yield func(Info, error) bool) error {
	if !beginsKeys(dir) {
		return nil
	}
	entries, err := fs.ReadDir(root.FS(), path.Clean(dir))
	if errors.Is(err, ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil // gone by now
	}
	if err != nil {
		return err
	}
	// By the bytes of the keys, a.b comes before a/b, and a0 after both.
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(keyOf(dir, a), keyOf(dir, b)) })
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		key := keyOf(dir, entry)
		if entry.IsDir() && (strings.HasPrefix(key, prefix) || strings.HasPrefix(prefix, key)) {
			if err := list(ctx, root, key, prefix, yield); err != nil {
				return err
			}
		}
		if !entry.Type().IsRegular() || !strings.HasPrefix(key, prefix) || !ValidKey(key) {
			continue
		}
		stat, err := root.Lstat(key)
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !yield(Info{Key: key, Size: stat.Size(), Modified: stat.ModTime().UTC()}, nil) {
			return errStopped
		}
	}
	return nil
}

// keyOf is the key of a file in dir, or what the keys in a directory start with.
func keyOf(dir string, entry fs.DirEntry) string {
	if entry.IsDir() {
		return dir + entry.Name() + "/"
	}
	return dir + entry.Name()
}
