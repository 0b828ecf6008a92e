package cache

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

const (
	// maxUploads is how many files are sent side by side: enough to hide a
	// long round trip, as most files are small.
	maxUploads = 32

	// smallNAR is the size, in bytes, up to which a NAR is compressed into
	// memory before it is sent, so that its file can be named by its hash. The
	// file of a larger one is sent while it is being made, and gets a name of
	// its own.
	smallNAR = 8 << 20

	// maxBuffered bounds the small NARs in memory, in bytes.
	maxBuffered = 32 << 20
)

// An uploader sends paths: NARs in any order, narinfos as soon as their NAR and
// the narinfos of all their references are there.
type uploader struct {
	cache    *Cache
	source   Source
	meter    *Meter
	compress *compressor
	reading  *semaphore.Weighted // NARs being read
	buffered *semaphore.Weighted // bytes of small NARs
	writing  *semaphore.Weighted // narinfos being written

	mu      sync.Mutex
	nodes   map[nix.StorePath]*node
	dropped []nix.StorePath // whose content address was left out
}

// A node is a path to send.
type node struct {
	info      nix.PathInfo
	narinfo   NarInfo // once the NAR is there
	waiting   int     // its own NAR, and references whose narinfo isn't there yet
	referrers []*node // that wait for this one
}

func (c *Cache) newUploader(source Source, meter *Meter) (*uploader, error) {
	compress, err := newCompressor(c.config.Compression, c.config.CompressionLevel)
	return &uploader{
		cache:    c,
		source:   source,
		meter:    meter,
		compress: compress,
		reading:  semaphore.NewWeighted(maxReading(source)),
		buffered: semaphore.NewWeighted(maxBuffered),
		writing:  semaphore.NewWeighted(maxLookups),
		nodes:    map[nix.StorePath]*node{},
	}, err
}

// upload sends the paths of infos, whose other references the cache has, and
// returns their narinfos as the cache has them.
func (u *uploader) upload(ctx context.Context, infos []nix.PathInfo) ([]NarInfo, error) {
	c, meter := u.cache, u.meter
	for _, info := range infos {
		u.nodes[info.Path] = &node{info: info, waiting: 1}
		meter.expect(1, info.NarSize)
	}
	for _, n := range u.nodes {
		for _, ref := range n.info.References {
			if r := u.nodes[ref]; r != nil && r != n {
				n.waiting++
				r.referrers = append(r.referrers, n)
			}
		}
	}

	// Largest first, so that none of the long ones is left for the end.
	infos = slices.Clone(infos)
	slices.SortFunc(infos, func(a, b nix.PathInfo) int { return cmp.Compare(b.NarSize, a.NarSize) })

	group, groupCtx := errgroup.WithContext(ctx)
	sending := semaphore.NewWeighted(maxUploads)
	for _, info := range infos {
		if sending.Acquire(groupCtx, 1) != nil {
			break // the group has the error
		}
		group.Go(func() error {
			defer sending.Release(1)
			narinfo, err := u.sendNAR(groupCtx, &info)
			if err != nil {
				return fmt.Errorf("pushing %s to %s: %w", info.Path, c, err)
			}
			n := u.nodes[info.Path]
			n.narinfo = narinfo
			u.settle(groupCtx, group, n)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sent := make([]NarInfo, 0, len(u.nodes))
	for _, n := range u.nodes {
		if n.waiting >= 0 {
			return nil, fmt.Errorf("pushing %s to %s: its references form a cycle", n.info.Path, c)
		}
		sent = append(sent, n.narinfo)
	}
	return sent, nil
}

// maxReading is how many NARs are read side by side: what keeps all cores busy,
// or what hides the round trips to another cache.
func maxReading(source Source) int64 {
	if _, ok := source.(*cacheSource); ok {
		return maxFetches
	}
	return int64(min(cores(), 4) + 2) // each large one has parts in memory, too
}

// settle notes that something that n waited for is there. When nothing is left,
// its narinfo is written, and then what waited for that is settled in turn.
func (u *uploader) settle(ctx context.Context, group *errgroup.Group, n *node) {
	u.mu.Lock()
	n.waiting--
	ready := n.waiting == 0
	u.mu.Unlock()
	if !ready {
		return
	}
	group.Go(func() error {
		if err := u.writing.Acquire(ctx, 1); err != nil {
			return err
		}
		narinfo, err := u.cache.publish(ctx, n.narinfo)
		u.writing.Release(1)
		if err != nil {
			return fmt.Errorf("pushing %s to %s: %w", n.info.Path, u.cache, err)
		}
		u.mu.Lock()
		n.narinfo, n.waiting = narinfo, -1
		u.mu.Unlock()
		u.meter.done()
		for _, r := range n.referrers {
			u.settle(ctx, group, r)
		}
		return nil
	})
}

// publish writes a narinfo for a path that had none. If somebody else did so
// meanwhile, theirs counts.
func (c *Cache) publish(ctx context.Context, ni NarInfo) (NarInfo, error) {
	if err := ni.checkText(); err != nil {
		return NarInfo{}, err
	}
	err := c.create(ctx, narinfoKey(ni.Path), ni.Text(), narinfoType, "")
	if err == nil {
		return ni, nil
	}
	if ctx.Err() != nil || errors.Is(err, blob.ErrPermission) || errors.Is(err, blob.ErrReadOnly) {
		return NarInfo{}, err
	}
	// Either somebody was faster, or our own answer was lost.
	there, _, lookupErr := c.lookup(ctx, ni.Path)
	if lookupErr != nil {
		return NarInfo{}, err
	}
	if trust := c.acceptable(&there); trust != nil {
		return NarInfo{}, c.refuse(&there, trust)
	}
	return there, nil
}

// sendNAR uploads the NAR of a path and returns the narinfo to write for it.
//
// What is signed must hold: a content address that doesn't fit the path, or that
// the content doesn't bear out, is left out of the narinfo. (Nix 2.34 aborts on one
// that doesn't fit.)
func (u *uploader) sendNAR(ctx context.Context, info *nix.PathInfo) (NarInfo, error) {
	ni := NarInfo{PathInfo: *info, Compression: u.compress.compression}
	if !ni.CA.IsZero() && ni.CheckContentAddress() != nil {
		u.dropAddress(&ni)
	}
	ni.Sign(u.cache.config.SigningKeys)
	if err := u.checkAcceptable(&ni); err != nil {
		return NarInfo{}, err
	}
	var address *addressCheck
	if !ni.CA.IsZero() {
		address = newAddressCheck(ni.CA)
		defer address.abandon()
	}
	send := u.sendLarge
	if info.NarSize <= smallNAR {
		send = u.sendSmall
	}
	if err := send(ctx, &ni, address); err != nil {
		return NarInfo{}, err
	}
	if address != nil && address.finish() != nil {
		u.dropAddress(&ni)
		if err := u.checkAcceptable(&ni); err != nil {
			return NarInfo{}, err
		}
	}
	return ni, nil
}

// checkAcceptable returns an error if what is sent could be used by nobody.
func (u *uploader) checkAcceptable(ni *NarInfo) error {
	if err := u.cache.acceptable(ni); err != nil {
		return hint.With(fmt.Errorf("nobody could use it: %w", err), "give a %s", hint.Term("signing_key"))
	}
	return nil
}

// dropAddress leaves out the content address of a path.
func (u *uploader) dropAddress(ni *NarInfo) {
	ni.CA = nix.ContentAddress{}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dropped = append(u.dropped, ni.Path)
}

func (u *uploader) sendSmall(ctx context.Context, ni *NarInfo, address *addressCheck) error {
	if err := u.buffered.Acquire(ctx, ni.NarSize); err != nil {
		return err
	}
	defer u.buffered.Release(ni.NarSize)
	file, err := u.smallFile(ctx, ni, address)
	if err != nil {
		return err
	}
	store, opts := u.cache.store, narOptions()
	opts.IfAbsent = store.Capabilities().Conditional
	ni.URL = "nar/" + ni.FileHash.Nix32() + suffixes[ni.Compression]
	_, err = store.Put(ctx, ni.URL, bytes.NewReader(file.Bytes()), opts)
	if errors.Is(err, blob.ErrPrecondition) {
		// The name says what is in it, if whoever wrote it was honest.
		if there, err := store.Stat(ctx, ni.URL); err == nil && there.Size == ni.FileSize {
			return nil
		}
		ni.URL = "nar/" + randomName() + suffixes[ni.Compression]
		_, err = store.Put(ctx, ni.URL, bytes.NewReader(file.Bytes()), narOptions())
	}
	return err
}

// smallFile makes the file of a small NAR.
func (u *uploader) smallFile(ctx context.Context, ni *NarInfo, address *addressCheck) (*bytes.Buffer, error) {
	if err := u.reading.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer u.reading.Release(1)
	file := bytes.NewBuffer(make([]byte, 0, ni.NarSize/2)) // more than most need
	return file, u.dump(ctx, ni, file, address)
}

func (u *uploader) sendLarge(ctx context.Context, ni *NarInfo, address *addressCheck) error {
	if err := u.reading.Acquire(ctx, 1); err != nil {
		return err
	}
	defer u.reading.Release(1)
	ni.URL = "nar/" + randomName() + suffixes[ni.Compression]
	r, w := io.Pipe()
	dumped := make(chan error, 1)
	go func() {
		err := u.dump(ctx, ni, w, address)
		w.CloseWithError(err) // the end of the file, if err is nil
		dumped <- err
	}()
	_, err := u.cache.store.Put(ctx, ni.URL, r, narOptions())
	r.CloseWithError(errors.New("the upload has failed")) // if so, dump ends, too
	if dumpErr := <-dumped; err == nil {
		err = dumpErr
	}
	return err
}

func narOptions() blob.PutOptions {
	return blob.PutOptions{ContentType: narType, CacheControl: immutable}
}

// dump writes the compressed NAR of a path to out and notes the file's hash and
// size. It fails if the NAR is not what the source announced. The address, which
// may be nil, gets the NAR, too.
func (u *uploader) dump(ctx context.Context, ni *NarInfo, out io.Writer, address *addressCheck) error {
	file := newDigest(out)
	var progress io.Writer = u.meter
	if address != nil {
		progress = io.MultiWriter(u.meter, address)
	}
	var err error
	if origin, ok := u.source.(*cacheSource); ok && origin.fits(&ni.PathInfo, ni.Compression) {
		err = origin.dumpFile(ctx, ni.Path, file, progress)
	} else {
		err = u.compressNAR(ctx, ni, file, progress)
	}
	if err != nil {
		return err
	}
	ni.FileHash, ni.FileSize = nix.SumHash(file.hash), file.size
	return nil
}

func (u *uploader) compressNAR(ctx context.Context, ni *NarInfo, out, progress io.Writer) error {
	compressed, err := u.compress.writer(out)
	if err != nil {
		return err
	}
	plain := newDigest(compressed)
	err = u.source.DumpNAR(ctx, ni.Path, &capped{io.MultiWriter(plain, progress), ni.NarSize})
	if closeErr := compressed.Close(); err == nil {
		err = closeErr
	}
	switch got := nix.SumHash(plain.hash); {
	case errors.Is(err, errTooLong):
		err = fmt.Errorf("its files make a NAR of more than the %d bytes that it is said to have", ni.NarSize)
	case err != nil:
		return err
	case plain.size != ni.NarSize:
		err = fmt.Errorf("its files make a NAR of %d bytes, not of the %d that it is said to have", plain.size, ni.NarSize)
	case got != ni.NarHash:
		err = fmt.Errorf("its files have the NarHash %s, not %s, which they are said to have", got, ni.NarHash)
	}
	return hint.With(err, "the store that it comes from is damaged: there, nix-store --verify --check-contents --repair finds and mends it")
}

// capped fails when it is given more than n bytes: a small NAR is held in
// memory, on its source's word that it is small.
type capped struct {
	w io.Writer
	n int64
}

var errTooLong = errors.New("longer than announced")

func (c *capped) Write(p []byte) (int, error) {
	if c.n -= int64(len(p)); c.n < 0 {
		return 0, errTooLong
	}
	return c.w.Write(p)
}
