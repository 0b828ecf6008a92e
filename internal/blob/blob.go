// Package blob is where bytes live: a small interface to named objects, and
// the places that implement it. A cache and its pointers are objects in one
// [Store]; nothing above this package knows whether that is a bucket, a
// directory, a web server or memory.
//
// Stores differ, and say in which way by [Capabilities]; what they have in
// common is written in the comments of [Store] and held against each of them
// by the conformance suite in blobtest.
//
// What this package is not: it knows nothing of Nix, of closures or of
// pointers, keeps no cache, and does not log.
//
// # Faults
//
// A store retries what is worth retrying (see package retry), within a bounded
// time. An error that it returns is final: callers do not try again. The
// exception is a write whose answer was lost: after an error of a conditional
// Put that is neither [ErrPrecondition] nor [ErrPermission] nor [ErrReadOnly],
// the object may or may not have been written, and the caller has to read it
// to find out.
package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
)

// A Store holds objects by key. All methods may be called from several
// goroutines at once, and by several processes for the same place.
//
// A key is a relative path with slashes that [ValidKey] accepts; any other is
// an error. Behind a web server it is a reference relative to the cache's URL, as
// Nix takes it: what follows ? is a query, and escapes stay. Errors name the store and the key, never a credential. Once ctx is
// done, a method, and the body that it returned, fails with an error wrapping
// ctx's.
type Store interface {
	// Get opens the object at key. The caller must close Object.Body.
	//
	// An object that was stored with a Content-Encoding is decoded: narinfos may be
	// (niks3 does so, and Nix with narinfo-compression). Its size isn't known then.
	//
	// The body yields exactly Info.Size bytes (less opts.Offset) where that is
	// known, and fails with an error wrapping [io.ErrUnexpectedEOF] if there
	// are fewer. It is a snapshot: a Put to the same key while it is being read
	// either doesn't change what it yields, or makes the read fail; bytes of
	// two versions never mix.
	//
	// Get returns [ErrNotExist] if there is no such object, [ErrNotModified] if
	// opts.IfNoneMatch is its ETag, and [ErrPermission] if it may not be read.
	Get(ctx context.Context, key string, opts GetOptions) (*Object, error)

	// Stat describes the object at key, with the errors of Get.
	Stat(ctx context.Context, key string) (Info, error)

	// Put stores what body yields, up to io.EOF, at key. The object becomes
	// visible whole and at once, or not at all: never in part, whatever happens
	// to this process, and not if body fails, in which case the error wraps
	// body's. Body is read once, and its length need not be known. Put returns
	// after the object is visible to every reader.
	//
	// With opts.IfAbsent or opts.IfMatch the write is conditional; of several
	// writers with the same condition exactly one wins, and the others get
	// [ErrPrecondition]. A store whose Capabilities lack Conditional refuses
	// conditions with an error wrapping [errors.ErrUnsupported].
	//
	// Put returns [ErrReadOnly] if the store can't be written to at all.
	Put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error)

	// Delete removes the object at key. It is no error if there is none.
	Delete(ctx context.Context, key string) error

	// List yields the objects whose key starts with prefix, in the order of
	// their keys' bytes. Objects written or deleted meanwhile may or may not be
	// seen. After an error the sequence ends. ETags may be left empty. Unfinished
	// writes are never listed.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Capabilities says what this store can do. It makes no request.
	Capabilities() Capabilities

	// Location says which store this is.
	Location() Location

	// String names the store in messages, in few words and without credentials.
	String() string
}

// A Location says which store is meant: two stores are the same place if theirs are
// equal. A bucket of one server isn't that of another with the same name.
type Location struct{ url string }

// At returns the location of a store whose URL that is, in the form that the store
// gives it.
func At(url string) Location { return Location{url} }

// String is a URL by which stock Nix finds the store, without credentials, as it
// stands in nix.conf; a store in memory has none that is of use.
func (l Location) String() string { return l.url }

// Capabilities are the ways in which stores differ.
type Capabilities struct {
	Write       bool // Put and Delete work
	Conditional bool // Put honours IfAbsent and IfMatch, between processes
	List        bool // List works
}

// Info describes an object.
type Info struct {
	Key      string
	Size     int64     // in bytes; -1 if the server didn't say
	ETag     string    // the version, for IfMatch and IfNoneMatch, as the store writes it; may be empty where nothing can be compared
	Modified time.Time // in UTC; the zero time if the store doesn't know
}

// An Object is one that is being read.
type Object struct {
	Info
	Body io.ReadCloser
}

// Noticing returns a context in which a store tells notice why somebody has to wait,
// before it tries again.
func Noticing(ctx context.Context, notice func(error)) context.Context {
	return retry.Noticing(ctx, notice)
}

// GetOptions modify a Get. The zero value reads the whole object.
type GetOptions struct {
	IfNoneMatch string // if this is the object's ETag, the answer is ErrNotModified
	Offset      int64  // skip so many bytes; an offset beyond the end is an error
}

// PutOptions modify a Put. The zero value replaces what is there.
type PutOptions struct {
	IfAbsent     bool   // write only if there is no object at key
	IfMatch      string // write only if the object at key has this ETag; ErrPrecondition if there is none
	ContentType  string // kept where the store can
	CacheControl string // kept where the store can
}

// The errors that callers branch on, by errors.Is.
var (
	ErrNotExist     = fs.ErrNotExist
	ErrPermission   = fs.ErrPermission
	ErrNotModified  = errors.New("not modified")
	ErrPrecondition = errors.New("somebody else wrote it first")
	ErrReadOnly     = errors.New("the store is read-only")
)

// Prepare lets a store find out now what it has to know before its first
// conditional write, so that nobody has to wait for it then. What goes wrong,
// that write will tell.
func Prepare(ctx context.Context, s Store) {
	if p, ok := s.(interface{ prepare(context.Context) }); ok {
		p.prepare(ctx)
	}
}

// A TooLargeError says that an object is larger than its reader permits.
type TooLargeError struct {
	Key   string
	Limit int64 // in bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s is larger than %d bytes", e.Key, e.Limit)
}

// ReadAll reads the object at key into memory, or fails with a
// [*TooLargeError], having read no more than limit bytes and one. If the object
// is replaced while it is being read, it reads the new one.
func ReadAll(ctx context.Context, s Store, key string, limit int64, opts GetOptions) (data []byte, info Info, err error) {
	for range 5 {
		data, info, err = readOnce(ctx, s, key, limit, opts)
		if !errors.Is(err, errReplaced) {
			break
		}
	}
	return data, info, err
}

func readOnce(ctx context.Context, s Store, key string, limit int64, opts GetOptions) ([]byte, Info, error) {
	object, err := s.Get(ctx, key, opts)
	if err != nil {
		return nil, Info{}, err
	}
	defer object.Body.Close()
	if object.Size > limit {
		return nil, object.Info, &TooLargeError{key, limit}
	}
	buffer := bytes.NewBuffer(make([]byte, 0, max(object.Size, 0)+bytes.MinRead))
	if _, err := buffer.ReadFrom(io.LimitReader(object.Body, limit+1)); err != nil {
		return nil, object.Info, err
	}
	if int64(buffer.Len()) > limit {
		return nil, object.Info, &TooLargeError{key, limit}
	}
	return buffer.Bytes(), object.Info, nil
}

// ValidKey says whether key may name an object: 1 to 1024 bytes, relative,
// with slashes between segments that are not empty, "." or "..", and without
// NUL, control characters, backslash, or a last segment that a store could
// take for one of its own temporary files.
func ValidKey(key string) bool {
	if len(key) == 0 || len(key) > 1024 {
		return false
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.HasPrefix(segment, TempPrefix) {
			return false
		}
	}
	return !strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' })
}

// TempPrefix starts the names of unfinished writes in a directory.
const TempPrefix = ".tmp-"
