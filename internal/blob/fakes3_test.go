package blob_test

import (
	"crypto/md5"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// A fakeS3 keeps objects in memory and remembers requests. It accepts whatever
// comes, conditions included, and heeds none of it: a server to look at our
// side of the wire with, and not one to show that something works.
type fakeS3 struct {
	mutex    sync.Mutex
	objects  map[string][]byte
	requests []*http.Request // without bodies

	// answer, if set, is asked first, and may answer instead.
	answer func(w http.ResponseWriter, r *http.Request) bool
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	f.requests = append(f.requests, r)
	if f.answer != nil && f.answer(w, r) {
		return
	}
	if r.Method == http.MethodPut {
		if f.objects == nil {
			f.objects = make(map[string][]byte)
		}
		f.objects[r.URL.Path] = body
	}
	data, ok := f.objects[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, "<Error><Code>NoSuchKey</Code></Error>")
		return
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, md5.Sum(data)))
	if r.Method == http.MethodGet {
		w.Write(data)
	}
}

// asked returns, and forgets, the requests that came.
func (f *fakeS3) asked() []*http.Request {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	requests := f.requests
	f.requests = nil
	return requests
}
