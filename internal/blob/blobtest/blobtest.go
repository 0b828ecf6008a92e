// Package blobtest holds the contract of [blob.Store] against a store: one
// test for each sentence. Run is for stores that can be written to, and
// RunReadOnly for the others.
//
// What only some stores promise, such as how they look from another process,
// is tested beside them.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

// large is more than any store sends in one request, and more than a connection
// holds on its way.
const large = 10 << 20

// Run tests a store that says that it has all capabilities. Each call of open
// must return another, empty store.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	RunReadOnly(t, func(t *testing.T, objects map[string][]byte) blob.Store {
		store := open(t)
		for key, data := range objects {
			put(t, store, key, data, blob.PutOptions{})
		}
		return store
	})
	for _, test := range []struct {
		name string
		test func(t *testing.T, store blob.Store)
	}{
		{"Capabilities", testCapabilities},
		{"Put", testPut},
		{"Delete", testDelete},
		{"InvalidKeys", testInvalidKeys},
		{"FailingBody", testFailingBody},
		{"CancelledPut", testCancelledPut},
		{"LargeBody", testLargeBody},
		{"AtomicReplace", testAtomicReplace},
		{"Snapshot", testSnapshot},
		{"IfAbsent", testIfAbsent},
		{"IfAbsentRace", testIfAbsentRace},
		{"IfMatch", testIfMatch},
		{"IfMatchRace", testIfMatchRace},
		{"List", testList},
		{"ListMany", testListMany},
		{"ListUnfinished", testListUnfinished},
	} {
		t.Run(test.name, func(t *testing.T) { test.test(t, open(t)) })
	}
}

// RunReadOnly tests a store's reading methods. Each call of open must return
// another store, that holds just these objects.
func RunReadOnly(t *testing.T, open func(t *testing.T, objects map[string][]byte) blob.Store) {
	for _, test := range []struct {
		name string
		test func(t *testing.T, open func(t *testing.T, objects map[string][]byte) blob.Store)
	}{
		{"Get", testGet},
		{"Keys", testKeys},
		{"Missing", testMissing},
		{"Offset", testOffset},
		{"IfNoneMatch", testIfNoneMatch},
		{"ReadAll", testReadAll},
		{"Cancelled", testCancelled},
	} {
		t.Run(test.name, func(t *testing.T) { test.test(t, open) })
	}
}

func put(t *testing.T, store blob.Store, key string, data []byte, opts blob.PutOptions) blob.Info {
	t.Helper()
	info, err := store.Put(t.Context(), key, bytes.NewReader(data), opts)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// get reads a whole object, of which each property must be as promised.
func get(t *testing.T, store blob.Store, key string) ([]byte, blob.Info) {
	t.Helper()
	object, err := store.Get(t.Context(), key, blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer object.Body.Close()
	data, err := io.ReadAll(object.Body)
	if err != nil {
		t.Fatal(err)
	}
	if object.Size >= 0 && object.Size != int64(len(data)) {
		t.Errorf("%s: Size is %d, and the body has %d bytes", key, object.Size, len(data))
	}
	return data, object.Info
}

func wantContents(t *testing.T, store blob.Store, key string, want []byte) {
	t.Helper()
	got, _ := get(t, store, key)
	if !bytes.Equal(want, got) {
		t.Errorf("%s has other contents: %s instead of %s", key, abbreviate(got), abbreviate(want))
	}
}

func wantError(t *testing.T, doing string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: the error is %v, want %v", doing, got, want)
	}
}

func wantNone(t *testing.T, store blob.Store, key string) {
	t.Helper()
	_, err := store.Stat(t.Context(), key)
	wantError(t, "Stat of "+key, err, blob.ErrNotExist)
	if got := list(t, store, ""); slices.Contains(got, key) {
		t.Errorf("%s is listed: %q", key, got)
	}
}

func abbreviate(data []byte) string {
	if len(data) > 32 {
		return fmt.Sprintf("%q… (%d bytes)", data[:32], len(data))
	}
	return strconv.Quote(string(data))
}

func list(t *testing.T, store blob.Store, prefix string) []string {
	t.Helper()
	var keys []string
	for info, err := range store.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// uniform yields size times the same byte, and hides its length.
func uniform(b byte, size int64) io.Reader {
	return io.LimitReader(repeated(bytes.Repeat([]byte{b}, 64<<10)), size)
}

type repeated []byte

func (r repeated) Read(p []byte) (int, error) { return copy(p, r), nil }

func testGet(t *testing.T, open func(*testing.T, map[string][]byte) blob.Store) {
	before := time.Now().Add(-time.Hour)
	store := open(t, map[string][]byte{"dir/object": []byte("contents"), "empty": {}})
	for key, want := range map[string]string{"dir/object": "contents", "empty": ""} {
		got, info := get(t, store, key)
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", key, diff)
		}
		if info.Key != key {
			t.Errorf("%s: Key is %q", key, info.Key)
		}
		if m := info.Modified; !m.IsZero() && (m.Before(before) || m.After(time.Now().Add(time.Hour)) || m.Location() != time.UTC) {
			t.Errorf("%s: Modified is %v", key, m)
		}
		stat, err := store.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(info, stat); diff != "" {
			t.Errorf("%s: Stat differs from Get (-Get +Stat)\n%s", key, diff)
		}
	}
}

// testKeys uses keys whose characters mean something in URLs and file names.
func testKeys(t *testing.T, open func(*testing.T, map[string][]byte) blob.Store) {
	objects := make(map[string][]byte)
	for _, key := range []string{
		"a b", "a+b", "a%20b", "a%2Fb", "a?b", "a#b", "a&b=c", "a:b", "a@b", "a~b", "a*b", "a,b;c", "a'b\"c", "a<b>", "a[b]{c}|^`",
		"umlaut-ü", "emoji-❄", "-dash", ".dot", "..dots", "x/.dot/y", "deep/er/and/deep/er", "trailing.", strings.Repeat("n", 200),
	} {
		objects[key] = []byte("contents of " + key)
	}
	store := open(t, objects)
	for key, want := range objects {
		if !store.Capabilities().Write && strings.ContainsAny(key, "%?") {
			continue // to a web server, it is a reference
		}
		wantContents(t, store, key, want)
	}
	if !store.Capabilities().List {
		return
	}
	want := make([]string, 0, len(objects))
	for key := range objects {
		want = append(want, key)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, list(t, store, "")); diff != "" {
		t.Errorf("listed keys (-want +got)\n%s", diff)
	}
}

func testMissing(t *testing.T, open func(*testing.T, map[string][]byte) blob.Store) {
	store := open(t, map[string][]byte{"dir/object": []byte("contents")})
	for _, key := range []string{"missing", "dir", "dir/missing", "dir/object/below", "dir/objec", "dir/object2", "missing/dir/object"} {
		_, err := store.Get(t.Context(), key, blob.GetOptions{})
		wantError(t, "Get of "+key, err, blob.ErrNotExist)
		if err != nil && (!strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), store.String())) {
			t.Errorf("the error doesn't name the key %s and the store %s: %v", key, store, err)
		}
		_, err = store.Stat(t.Context(), key)
		wantError(t, "Stat of "+key, err, blob.ErrNotExist)
	}
}

func testOffset(t *testing.T, open func(*testing.T, map[string][]byte) blob.Store) {
	const contents = "0123456789"
	store := open(t, map[string][]byte{"object": []byte(contents)})
	for _, offset := range []int64{0, 1, 9, 10} {
		object, err := store.Get(t.Context(), "object", blob.GetOptions{Offset: offset})
		if err != nil {
			t.Errorf("offset %d: %v", offset, err)
			continue
		}
		got, err := io.ReadAll(object.Body)
		object.Body.Close()
		if err != nil || string(got) != contents[offset:] {
			t.Errorf("offset %d: got %q, error %v", offset, got, err)
		}
		if object.Size != int64(len(contents)) {
			t.Errorf("offset %d: Size is %d, and should be that of the whole object", offset, object.Size)
		}
	}
	for _, offset := range []int64{-1, 11} {
		object, err := store.Get(t.Context(), "object", blob.GetOptions{Offset: offset})
		if err == nil {
			object.Body.Close()
			t.Errorf("offset %d of %d bytes is no error", offset, len(contents))
		}
	}
}

func testIfNoneMatch(t *testing.T, open func(*testing.T, map[string][]byte) blob.Store) {
	store := open(t, map[string][]byte{"object": []byte("contents"), "other": []byte("other")})
	_, info := get(t, store, "object")
	if info.ETag == "" {
		t.Fatal("there is no ETag")
	}
	_, err := store.Get(t.Context(), "object", blob.GetOptions{IfNoneMatch: info.ETag})
	wantError(t, "Get of the known version", err, blob.ErrNotModified)

	object, err := store.Get(t.Context(), "other", blob.GetOptions{IfNoneMatch: info.ETag})
	if err != nil {
		t.Fatal(err)
	}
	object.Body.Close()

	_, err = store.Get(t.Context(), "missing", blob.GetOptions{IfNoneMatch: info.ETag})
	wantError(t, "Get of nothing", err, blob.ErrNotExist)
}

func testReadAll(t *testing.T, open func(*testing.T, map[string][]byte) blob.Store) {
	store := open(t, map[string][]byte{"object": []byte("0123456789")})
	got, info, err := blob.ReadAll(t.Context(), store, "object", 10, blob.GetOptions{})
	if err != nil || string(got) != "0123456789" || info.Key != "object" {
		t.Errorf("got %q, %+v, error %v", got, info, err)
	}
	_, _, err = blob.ReadAll(t.Context(), store, "object", 9, blob.GetOptions{})
	var tooLarge *blob.TooLargeError
	if !errors.As(err, &tooLarge) || tooLarge.Limit != 9 || tooLarge.Key != "object" {
		t.Errorf("one byte too many: the error is %v", err)
	}
}

func testCancelled(t *testing.T, open func(*testing.T, map[string][]byte) blob.Store) {
	store := open(t, map[string][]byte{"object": bytes.Repeat([]byte("x"), large)})
	ctx, cancel := context.WithCancel(t.Context())
	object, err := store.Get(ctx, "object", blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer object.Body.Close()
	if _, err := io.ReadFull(object.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = io.Copy(io.Discard, object.Body)
	wantError(t, "reading", err, context.Canceled)
	_, err = store.Get(ctx, "object", blob.GetOptions{})
	wantError(t, "Get", err, context.Canceled)
	_, err = store.Stat(ctx, "object")
	wantError(t, "Stat", err, context.Canceled)
	if store.Capabilities().List {
		for _, err = range store.List(ctx, "") {
		}
		wantError(t, "List", err, context.Canceled)
	}
}

func testCapabilities(t *testing.T, store blob.Store) {
	want := blob.Capabilities{Write: true, Conditional: true, List: true}
	if diff := cmp.Diff(want, store.Capabilities()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func testPut(t *testing.T, store blob.Store) {
	for _, contents := range []string{"one", "another that is longer", "short", ""} {
		put1 := put(t, store, "dir/object", []byte(contents), blob.PutOptions{ContentType: "text/plain", CacheControl: "no-cache"})
		data, got := get(t, store, "dir/object")
		if string(data) != contents {
			t.Errorf("got %q, want %q", data, contents)
		}
		put1.Modified, got.Modified = time.Time{}, time.Time{} // no reader depends on it
		if diff := cmp.Diff(put1, got); diff != "" {
			t.Errorf("Get differs from what Put returned (-Put +Get)\n%s", diff)
		}
	}
}

func testDelete(t *testing.T, store blob.Store) {
	put(t, store, "dir/object", []byte("contents"), blob.PutOptions{})
	for _, key := range []string{"missing", "dir", "dir/object/below", "dir/missing", "no/such/dir"} {
		if err := store.Delete(t.Context(), key); err != nil {
			t.Errorf("deleting nothing at %s: %v", key, err)
		}
	}
	wantContents(t, store, "dir/object", []byte("contents"))
	if err := store.Delete(t.Context(), "dir/object"); err != nil {
		t.Fatal(err)
	}
	wantNone(t, store, "dir/object")
	put(t, store, "dir/object", []byte("again"), blob.PutOptions{IfAbsent: true})
	wantContents(t, store, "dir/object", []byte("again"))
}

func testInvalidKeys(t *testing.T, store blob.Store) {
	for _, key := range []string{
		"", ".", "..", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/..", "./a", "a/.", "a\\b", "a\nb", "a\x00b", "a\x7f",
		blob.TempPrefix + "a", "a/" + blob.TempPrefix + "b", strings.Repeat("n", 1025),
	} {
		if _, err := store.Get(t.Context(), key, blob.GetOptions{}); err == nil || errors.Is(err, blob.ErrNotExist) {
			t.Errorf("Get of %q: %v", key, err)
		}
		if _, err := store.Stat(t.Context(), key); err == nil || errors.Is(err, blob.ErrNotExist) {
			t.Errorf("Stat of %q: %v", key, err)
		}
		if _, err := store.Put(t.Context(), key, strings.NewReader("x"), blob.PutOptions{}); err == nil {
			t.Errorf("Put to %q is no error", key)
		}
		if err := store.Delete(t.Context(), key); err == nil {
			t.Errorf("Delete of %q is no error", key)
		}
	}
	if got := list(t, store, ""); len(got) != 0 {
		t.Errorf("something was written: %q", got)
	}
	for _, prefix := range []string{"../", "/", "a//", "a/../", "./", blob.TempPrefix + "a/"} {
		if got := list(t, store, prefix); len(got) != 0 {
			t.Errorf("prefix %q lists %q", prefix, got)
		}
	}
}

// testFailingBody lets bodies fail at their beginning, soon, and after much
// has been sent.
func testFailingBody(t *testing.T, store blob.Store) {
	old := put(t, store, "replaced", []byte("old"), blob.PutOptions{})
	for _, size := range []int64{0, 10, large} {
		for key, opts := range map[string]blob.PutOptions{"new": {}, "absent": {IfAbsent: true}, "replaced": {IfMatch: old.ETag}} {
			for _, broken := range []error{errors.New("the disk is gone"), io.ErrUnexpectedEOF} {
				body := io.MultiReader(uniform('x', size), iotest.ErrReader(broken))
				_, err := store.Put(t.Context(), key, body, opts)
				wantError(t, fmt.Sprintf("Put to %s of %d bytes and an error", key, size), err, broken)
			}
		}
	}
	wantNone(t, store, "new")
	wantNone(t, store, "absent")
	wantContents(t, store, "replaced", []byte("old"))
}

func testCancelledPut(t *testing.T, store blob.Store) {
	for _, size := range []int64{10, large} {
		ctx, cancel := context.WithCancel(t.Context())
		body := io.MultiReader(uniform('x', size), readerFunc(func([]byte) (int, error) {
			cancel()
			return 0, nil
		}), uniform('y', size))
		_, err := store.Put(ctx, "object", body, blob.PutOptions{})
		wantError(t, "Put", err, context.Canceled)
		wantNone(t, store, "object")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	put(t, store, "object", []byte("contents"), blob.PutOptions{})
	wantError(t, "Delete", store.Delete(ctx, "object"), context.Canceled)
	wantContents(t, store, "object", []byte("contents"))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func testLargeBody(t *testing.T, store blob.Store) {
	const size = large + 12345
	noise := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{}), size) }
	info, err := store.Put(t.Context(), "nar/large", noise(), blob.PutOptions{IfAbsent: true})
	if err != nil {
		t.Fatal(err)
	}
	if info.Size != size {
		t.Errorf("Put says %d bytes, and it was given %d", info.Size, size)
	}
	want, _ := io.ReadAll(noise())
	wantContents(t, store, "nar/large", want)

	object, err := store.Get(t.Context(), "nar/large", blob.GetOptions{Offset: size - 100})
	if err != nil {
		t.Fatal(err)
	}
	defer object.Body.Close()
	got, err := io.ReadAll(object.Body)
	if err != nil || !bytes.Equal(want[size-100:], got) {
		t.Errorf("the last 100 bytes are %s, error %v", abbreviate(got), err)
	}
}

// testAtomicReplace reads while somebody writes: each reader sees one of the
// objects that were written, whole.
func testAtomicReplace(t *testing.T, store blob.Store) {
	const size = 3 << 20
	put(t, store, "object", bytes.Repeat([]byte{'0'}, size), blob.PutOptions{})
	group, ctx := errgroup.WithContext(t.Context())
	written := make(chan struct{})
	group.Go(func() error {
		defer close(written)
		for i := range 10 {
			if _, err := store.Put(ctx, "object", uniform('1'+byte(i), size), blob.PutOptions{}); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		for {
			if err := readUniform(ctx, store, "object", size); err != nil {
				return err
			}
			select {
			case <-written:
				return nil
			default:
			}
		}
	})
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

func readUniform(ctx context.Context, store blob.Store, key string, size int) error {
	object, err := store.Get(ctx, key, blob.GetOptions{})
	if err != nil {
		return err
	}
	defer object.Body.Close()
	data, err := io.ReadAll(object.Body)
	if errors.Is(err, context.Canceled) || len(data) < size && err == nil {
		return fmt.Errorf("read %d bytes of %d, error %v", len(data), size, err)
	}
	if err == nil && !bytes.Equal(data, bytes.Repeat(data[:1], size)) {
		return fmt.Errorf("read bytes of two versions")
	}
	return nil // the object was replaced meanwhile, and the reader was told
}

// testSnapshot replaces an object of which a part has been read.
func testSnapshot(t *testing.T, store blob.Store) {
	put(t, store, "object", bytes.Repeat([]byte{'o'}, large), blob.PutOptions{})
	object, err := store.Get(t.Context(), "object", blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer object.Body.Close()
	if _, err := io.ReadFull(object.Body, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	replaced := make(chan error, 1)
	go func() {
		_, err := store.Put(t.Context(), "object", uniform('n', large), blob.PutOptions{})
		replaced <- err
	}()
	select {
	case err = <-replaced:
	case <-time.After(time.Second): // MinIO lets the writer wait for the reader
		defer func() { <-replaced }()
	}
	if err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(object.Body)
	if i := bytes.IndexByte(rest, 'n'); i >= 0 {
		t.Errorf("byte %d is of the new version", 10+i)
	}
	if err == nil && len(rest) != large-10 {
		t.Errorf("the rest has %d bytes instead of %d", len(rest), large-10)
	}
}

func testIfAbsent(t *testing.T, store blob.Store) {
	first := put(t, store, "object", []byte("first"), blob.PutOptions{IfAbsent: true})
	_, err := store.Put(t.Context(), "object", strings.NewReader("second"), blob.PutOptions{IfAbsent: true})
	wantError(t, "small", err, blob.ErrPrecondition)
	_, err = store.Put(t.Context(), "object", uniform('x', large), blob.PutOptions{IfAbsent: true})
	wantError(t, "large", err, blob.ErrPrecondition)
	wantContents(t, store, "object", []byte("first"))
	if _, info := get(t, store, "object"); info.ETag != first.ETag {
		t.Errorf("the ETag was %s and is %s", first.ETag, info.ETag)
	}
}

// race lets n writers do the same at once, and returns who won.
func race(t *testing.T, n int, write func(writer int) error) []int {
	t.Helper()
	var (
		start, done sync.WaitGroup
		winners     []int
		mutex       sync.Mutex
	)
	start.Add(1)
	for writer := range n {
		done.Go(func() {
			start.Wait()
			err := write(writer)
			mutex.Lock()
			defer mutex.Unlock()
			if err == nil {
				winners = append(winners, writer)
			} else if !errors.Is(err, blob.ErrPrecondition) {
				t.Error(err)
			}
		})
	}
	start.Done()
	done.Wait()
	return winners
}

func testIfAbsentRace(t *testing.T, store blob.Store) {
	for round := range 10 {
		key := "object-" + strconv.Itoa(round)
		winners := race(t, 12, func(writer int) error {
			_, err := store.Put(t.Context(), key, strings.NewReader(strconv.Itoa(writer)), blob.PutOptions{IfAbsent: true})
			return err
		})
		if len(winners) != 1 {
			t.Fatalf("%d writers won", len(winners))
		}
		wantContents(t, store, key, []byte(strconv.Itoa(winners[0])))
	}
	winners := race(t, 3, func(writer int) error {
		_, err := store.Put(t.Context(), "large", uniform('0'+byte(writer), large), blob.PutOptions{IfAbsent: true})
		return err
	})
	if len(winners) != 1 {
		t.Fatalf("%d writers of a large object won", len(winners))
	}
	wantContents(t, store, "large", bytes.Repeat([]byte{'0' + byte(winners[0])}, large))
}

func testIfMatch(t *testing.T, store blob.Store) {
	_, err := store.Put(t.Context(), "object", strings.NewReader("x"), blob.PutOptions{IfMatch: `"00000000000000000000000000000000"`})
	wantError(t, "where nothing is", err, blob.ErrPrecondition)
	wantNone(t, store, "object")

	first := put(t, store, "object", []byte("first"), blob.PutOptions{})
	second := put(t, store, "object", []byte("second"), blob.PutOptions{IfMatch: first.ETag})
	if second.ETag == first.ETag {
		t.Errorf("two versions have the ETag %s", first.ETag)
	}
	_, err = store.Put(t.Context(), "object", strings.NewReader("third"), blob.PutOptions{IfMatch: first.ETag})
	wantError(t, "with an old ETag", err, blob.ErrPrecondition)
	wantContents(t, store, "object", []byte("second"))

	_, info := get(t, store, "object") // a reader's ETag is as good as a writer's
	put(t, store, "object", []byte("third"), blob.PutOptions{IfMatch: info.ETag})
	wantContents(t, store, "object", []byte("third"))
}

// testIfMatchRace lets writers increment one number, all at once.
func testIfMatchRace(t *testing.T, store blob.Store) {
	const writers, increments = 8, 10
	put(t, store, "counter", []byte("0"), blob.PutOptions{})
	var group errgroup.Group
	for range writers {
		group.Go(func() error {
			for range increments {
				if err := Increment(t.Context(), store, "counter"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	wantContents(t, store, "counter", []byte(strconv.Itoa(writers*increments)))
}

// Increment adds one to the number at key by compare-and-swap, however often
// others come first.
func Increment(ctx context.Context, store blob.Store, key string) error {
	for {
		data, info, err := blob.ReadAll(ctx, store, key, 100, blob.GetOptions{})
		if err != nil {
			return err
		}
		number, err := strconv.Atoi(string(data))
		if err != nil {
			return err
		}
		_, err = store.Put(ctx, key, strings.NewReader(strconv.Itoa(number+1)), blob.PutOptions{IfMatch: info.ETag})
		if !errors.Is(err, blob.ErrPrecondition) {
			return err
		}
	}
}

func testList(t *testing.T, store blob.Store) {
	keys := []string{"a", "b-c", "b.c", "b/a/z", "b/c", "b/c.d", "b/c0", "b0", "c/d/e", "z", "é"}
	for _, key := range slices.Backward(keys) {
		put(t, store, key, []byte(key), blob.PutOptions{})
	}
	for prefix, want := range map[string][]string{
		"":         keys,
		"a":        {"a"},
		"b":        {"b-c", "b.c", "b/a/z", "b/c", "b/c.d", "b/c0", "b0"},
		"b/":       {"b/a/z", "b/c", "b/c.d", "b/c0"},
		"b/c":      {"b/c", "b/c.d", "b/c0"},
		"b/a/":     {"b/a/z"},
		"c/d/e":    {"c/d/e"},
		"c/d/e/":   nil,
		"a/":       nil,
		"d":        nil,
		"d/e/":     nil,
		"b/c/d/e":  nil,
		"\u00e9":   {"é"},
		"b/c.d.no": nil,
	} {
		if diff := cmp.Diff(want, list(t, store, prefix)); diff != "" {
			t.Errorf("prefix %q (-want +got)\n%s", prefix, diff)
		}
	}
	for info, err := range store.List(t.Context(), "b/") {
		if err != nil {
			t.Fatal(err)
		}
		stat, err := store.Stat(t.Context(), info.Key)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size != stat.Size || info.ETag != "" && info.ETag != stat.ETag || !info.Modified.Truncate(time.Second).Equal(stat.Modified.Truncate(time.Second)) {
			t.Errorf("List and Stat differ: %+v and %+v", info, stat)
		}
		break // which ends the listing
	}
}

// testListMany lists more objects than a server lists in one answer, and
// deletes them on the way.
func testListMany(t *testing.T, store blob.Store) {
	const objects = 1100
	var group errgroup.Group
	group.SetLimit(16)
	want := make([]string, objects)
	for i := range objects {
		want[i] = fmt.Sprintf("dir/%04d", i)
		group.Go(func() error {
			_, err := store.Put(t.Context(), want[i], strings.NewReader("x"), blob.PutOptions{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for info, err := range store.List(t.Context(), "dir/") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, info.Key)
		if err := store.Delete(t.Context(), info.Key); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := list(t, store, ""); len(got) != 0 {
		t.Errorf("%d objects are left", len(got))
	}
}

// testListUnfinished looks at the store from inside of a body.
func testListUnfinished(t *testing.T, store blob.Store) {
	var unfinished []string
	look := readerFunc(func([]byte) (int, error) {
		unfinished = append(unfinished, list(t, store, "")...)
		return 0, io.EOF
	})
	if _, err := store.Put(t.Context(), "dir/object", io.MultiReader(uniform('x', large), look), blob.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(unfinished) != 0 {
		t.Errorf("listed before Put returned: %q", unfinished)
	}
	if diff := cmp.Diff([]string{"dir/object"}, list(t, store, "")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
