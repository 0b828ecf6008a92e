package nar

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"
)

// bufferSize is how much of an archive is in memory, and the size of the reads
// and writes in which large files pass.
const bufferSize = 64 << 10

// A FormatError says where and why an archive is not one that Nix accepts.
type FormatError struct {
	Path   string // of the entry that was being read
	Reason string
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return "bad archive: " + e.Reason
	}
	return fmt.Sprintf("bad archive: %q: %s", e.Path, e.Reason)
}

// A Reader reads an archive entry by entry: directories before what they hold,
// siblings in the order of their names' bytes. It holds a buffer of fixed size
// and the names on the way from the root to the current entry.
type Reader struct {
	r   *bufio.Reader
	err error // what Next has failed with

	started bool
	path    []byte // of the current entry
	dirs    []dir  // the directories whose end is to come, root first
	inFile  bool   // the current entry is a regular file whose end is to come
	size    int64  // of its contents
	left    int64  // how many of them haven't been read
}

type dir struct {
	pathLen int    // of the directory's own path
	last    string // name of its latest entry
}

// NewReader returns a Reader of the archive that r holds. It reads ahead, up to
// r's end.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, bufferSize)}
}

// Next advances to the next entry, skipping what is left of the current one.
// It returns io.EOF after the end of the archive, if that is r's end too.
//
// A violation of the format is a [*FormatError]; an archive that stops short,
// an error that wraps [io.ErrUnexpectedEOF]; errors of r come back unchanged.
// After an error, Next keeps returning it.
func (r *Reader) Next() (*Entry, error) {
	if r.err != nil {
		return nil, r.err
	}
	var entry *Entry
	entry, r.err = r.next()
	return entry, r.err
}

func (r *Reader) next() (*Entry, error) {
	if !r.started {
		r.started = true
		if err := r.expect(tokensStart, "it doesn't start as a NAR does"); err != nil {
			return nil, err
		}
		return r.node()
	}
	if r.inFile {
		if err := r.closeFile(); err != nil {
			return nil, err
		}
	}
	for len(r.dirs) > 0 {
		d := &r.dirs[len(r.dirs)-1]
		r.path = r.path[:d.pathLen]
		closed, err := r.accept(tokensClose)
		if err != nil {
			return nil, err
		}
		if !closed {
			if err := r.entry(d); err != nil {
				return nil, err
			}
			return r.node()
		}
		r.dirs = r.dirs[:len(r.dirs)-1]
		if len(r.dirs) > 0 {
			if err := r.expect(tokensClose, `want ")" after a directory`); err != nil {
				return nil, err
			}
		}
	}
	if _, err := r.r.Peek(1); err != io.EOF {
		if err == nil {
			err = r.bad("there are bytes after its end")
		}
		return nil, err
	}
	return nil, io.EOF
}

// entry reads the start of an entry of d, up to its node, and appends its name
// to the path.
func (r *Reader) entry(d *dir) error {
	if err := r.expect(tokensEntry, `want an entry or ")" in a directory`); err != nil {
		return err
	}
	name, err := r.string(maxName, "name")
	if err != nil {
		return err
	}
	switch {
	case name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return r.bad("it holds an entry with the name %q", name)
	case name <= d.last: // "" is less than any
		return r.bad("its entry %q comes after %q", name, d.last)
	}
	d.last = name
	if len(r.dirs) > 1 {
		r.path = append(r.path, '/')
	}
	r.path = append(r.path, name...)
	return r.expect(tokensEntryNode, "want a node after a name")
}

// node reads a node: whole if it is a symlink, up to its contents or entries
// otherwise.
func (r *Reader) node() (*Entry, error) {
	if len(r.dirs) >= maxDepth {
		return nil, r.bad("it is deeper than %d levels", maxDepth)
	}
	if err := r.expect(tokensNode, "want a node with a type"); err != nil {
		return nil, err
	}
	entry := &Entry{Path: string(r.path)}
	if ok, err := r.accept(tokensRegular); err != nil {
		return nil, err
	} else if ok {
		return entry, r.regular(entry)
	}
	if ok, err := r.accept(tokensDirectory); err != nil {
		return nil, err
	} else if ok {
		entry.Type = Directory
		r.dirs = append(r.dirs, dir{pathLen: len(r.path)})
		return entry, nil
	}
	if err := r.expect(tokensSymlink, "want a regular file, a directory or a symlink with a target"); err != nil {
		return nil, err
	}
	entry.Type = Symlink
	var err error
	if entry.Target, err = r.string(maxTarget, "link target"); err != nil {
		return nil, err
	}
	if strings.Contains(entry.Target, "\x00") {
		return nil, r.bad("its link target contains a NUL")
	}
	return entry, r.closeLeaf()
}

func (r *Reader) regular(entry *Entry) (err error) {
	if entry.Executable, err = r.accept(tokensExecutable); err != nil {
		return err
	}
	if err := r.expect(tokensContents, "want the contents of a regular file"); err != nil {
		return err
	}
	size, err := r.number()
	if err != nil {
		return err
	}
	if size > math.MaxInt64 {
		return r.bad("its size of %d bytes can't be", size)
	}
	entry.Size = int64(size)
	r.inFile, r.size, r.left = true, entry.Size, entry.Size
	return nil
}

// closeFile reads a regular file from where its contents have been read to, up
// to the end of its entry.
func (r *Reader) closeFile() error {
	if _, err := r.WriteTo(io.Discard); err != nil {
		return err
	}
	r.inFile = false
	if err := r.expect(zeros[:padding(r.size)], "its padding is not zero"); err != nil {
		return err
	}
	return r.closeLeaf()
}

// closeLeaf reads the end of a node that isn't a directory, and of the entry
// that it is in.
func (r *Reader) closeLeaf() error {
	closing := tokensCloseTwo
	if len(r.dirs) == 0 {
		closing = tokensClose
	}
	return r.expect(closing, `want ")" after a file`)
}

// Read reads the contents of the current entry, and returns io.EOF at their
// end, or at once if the entry is not a regular file.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	if r.err != nil {
		return 0, r.err
	}
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.r.Read(p)
	r.left -= int64(n)
	if err != nil {
		r.err = short(err)
	}
	return n, r.err
}

// WriteTo writes to w what is left of the contents of the current entry, in
// one Write if they are small.
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	for r.left > 0 {
		if r.err != nil {
			return written, r.err
		}
		chunk, err := r.r.Peek(int(min(r.left, bufferSize)))
		if err != nil {
			r.err = short(err)
			return written, r.err
		}
		n, err := w.Write(chunk)
		r.r.Discard(n)
		r.left -= int64(n)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// expect reads what must come next.
func (r *Reader) expect(want []byte, reason string) error {
	ok, err := r.accept(want)
	if err == nil && !ok {
		err = r.bad("%s", reason)
	}
	return err
}

// accept reads want if it comes next, and nothing otherwise.
func (r *Reader) accept(want []byte) (bool, error) {
	got, err := r.r.Peek(len(want))
	if !bytes.HasPrefix(want, got) {
		return false, nil
	}
	if err != nil {
		return false, short(err)
	}
	r.r.Discard(len(want))
	return true, nil
}

// string reads a string of 1 to limit bytes.
func (r *Reader) string(limit uint64, what string) (string, error) {
	size, err := r.number()
	if err != nil {
		return "", err
	}
	if size == 0 || size > limit {
		return "", r.bad("it holds a %s of %d bytes, want 1 to %d", what, size, limit)
	}
	pad := padding(int64(size))
	b, err := r.r.Peek(int(size) + pad)
	if err != nil {
		return "", short(err)
	}
	if !bytes.Equal(b[size:], zeros[:pad]) {
		return "", r.bad("the padding of a %s is not zero", what)
	}
	s := string(b[:size])
	r.r.Discard(len(b))
	return s, nil
}

func (r *Reader) number() (uint64, error) {
	b, err := r.r.Peek(8)
	if err != nil {
		return 0, short(err)
	}
	n := binary.LittleEndian.Uint64(b)
	r.r.Discard(8)
	return n, nil
}

func (r *Reader) bad(format string, args ...any) error {
	return &FormatError{string(r.path), fmt.Sprintf(format, args...)}
}

// short makes of an end before the archive's own end the error that it is.
func short(err error) error {
	if err == io.EOF {
		return fmt.Errorf("bad archive: it stops short: %w", io.ErrUnexpectedEOF)
	}
	return err
}
