package blob

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/ctxio"
)

// A Memory is a Store in the memory of this process, for tests.
type Memory struct {
	mutex   sync.RWMutex
	objects map[string]memoryObject
}

type memoryObject struct {
	info Info
	data []byte // never changed
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{objects: make(map[string]memoryObject)}
}

// Capabilities implements [Store].
func (m *Memory) Capabilities() Capabilities {
	return Capabilities{Write: true, Conditional: true, List: true}
}

// String implements [Store].
func (m *Memory) String() string { return "memory:" }

// Location implements [Store].
func (m *Memory) Location() Location { return Location{fmt.Sprintf("memory:%p", m)} }

// Get implements [Store].
func (m *Memory) Get(ctx context.Context, key string, opts GetOptions) (*Object, error) {
	object, err := m.lookUp(ctx, key)
	if err == nil && opts.IfNoneMatch == object.info.ETag {
		err = ErrNotModified
	}
	if err == nil {
		err = checkOffset(opts.Offset, object.info.Size)
	}
	if err != nil {
		return nil, failed("reading", key, m, err)
	}
	rest := bytes.NewReader(object.data[opts.Offset:])
	return &Object{object.info, &body{ctx, m, key, io.NopCloser(rest), rest.Size()}}, nil
}

// Stat implements [Store].
func (m *Memory) Stat(ctx context.Context, key string) (Info, error) {
	object, err := m.lookUp(ctx, key)
	if err != nil {
		return Info{}, failed("looking up", key, m, err)
	}
	return object.info, nil
}

func (m *Memory) lookUp(ctx context.Context, key string) (memoryObject, error) {
	if err := check(ctx, key); err != nil {
		return memoryObject{}, err
	}
	m.mutex.RLock()
	defer m.mutex.RUnlock()
	object, ok := m.objects[key]
	if !ok {
		return memoryObject{}, ErrNotExist
	}
	return object, nil
}

// Put implements [Store].
func (m *Memory) Put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	info, err := m.put(ctx, key, body, opts)
	if err != nil {
		return Info{}, failed("writing", key, m, err)
	}
	return info, nil
}

func (m *Memory) put(ctx context.Context, key string, body io.Reader, opts PutOptions) (Info, error) {
	if err := check(ctx, key); err != nil {
		return Info{}, err
	}
	data, err := io.ReadAll(ctxio.NewReader(ctx, body))
	if err != nil {
		return Info{}, err
	}
	info := Info{
		Key:      key,
		Size:     int64(len(data)),
		ETag:     fmt.Sprintf(`"%x"`, sha256.Sum256(data)),
		Modified: time.Now().UTC(),
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	current, exists := m.objects[key]
	if opts.IfAbsent && exists || opts.IfMatch != "" && opts.IfMatch != current.info.ETag {
		return Info{}, ErrPrecondition
	}
	m.objects[key] = memoryObject{info, data}
	return info, nil
}

// Delete implements [Store].
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return failed("deleting", key, m, err)
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	delete(m.objects, key)
	return nil
}

// List implements [Store].
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for _, info := range m.infos(prefix) {
			if err := ctx.Err(); err != nil {
				yield(Info{}, fmt.Errorf("listing %s: %w", m, err))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// infos returns a sorted snapshot, so that List may be used by one who writes.
func (m *Memory) infos(prefix string) []Info {
	m.mutex.RLock()
	defer m.mutex.RUnlock()
	var infos []Info
	for key, object := range m.objects {
		if strings.HasPrefix(key, prefix) {
			infos = append(infos, object.info)
		}
	}
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.Key, b.Key) })
	return infos
}
