package nixcmd

import (
	"bufio"
	"context"
	bin "encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A daemon is a connection to a Nix daemon, in its worker protocol (Nix,
// src/libstore/worker-protocol*, daemon.cc), of which it knows two questions.
// It is used by one goroutine at a time.
type daemon struct {
	w   *bufio.Writer
	r   *bufio.Reader
	end func() // ends the program that leads to it

	said  tail       // by that program, for errors, once it has ended
	ended chan error // what it has ended with
}

// protocolVersion is the one that we speak, 1.32, of Nix 2.4.
const protocolVersion = 1<<8 | 32

const (
	magicClient = 0x6e697863
	magicServer = 0x6478696f

	opQueryPathInfo = 26
	opNarFromPath   = 38

	stderrNext          = 0x6f6c6d67
	stderrLast          = 0x616c7473
	stderrError         = 0x63787470
	stderrStartActivity = 0x53545254
	stderrStopActivity  = 0x53544f50
	stderrResult        = 0x52534c54
)

// startDaemon starts a program whose stdin and stdout lead to a daemon.
func startDaemon(program string, args, env []string) (*daemon, error) {
	pipes, err := newPipes()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{
		w: bufio.NewWriter(pipes.in), r: bufio.NewReaderSize(pipes.out, 64<<10),
		ended: make(chan error, 1),
		end:   sync.OnceFunc(func() { cancel(); pipes.close() }),
	}
	go func() {
		d.ended <- start(ctx, child{conversation: pipes, stderr: &d.said, env: env}, program, args...)
	}()
	return d, nil
}

// close ends the connection. The error says what had ended it before, if
// anything had.
func (d *daemon) close() error {
	select {
	case err := <-d.ended:
		d.end()
		if said := d.said.String(); said != "" {
			return errors.New(said)
		}
		if err == nil {
			err = errors.New("it has hung up")
		}
		return err
	case <-time.After(time.Second): // which a program has to end whose other side is lost
		d.end()
		<-d.ended
		return nil
	}
}

func (d *daemon) handshake() error {
	d.write(magicClient)
	if err := d.w.Flush(); err != nil {
		return err
	}
	if magic, err := d.read(); err != nil {
		return err
	} else if magic != magicServer {
		return errors.New("what answers there is no Nix daemon")
	}
	version, err := d.read()
	if err != nil {
		return err
	}
	if version>>8 != protocolVersion>>8 || version&0xff < 28 {
		return fmt.Errorf("its daemon speaks version %d.%d of Nix's protocol, which is not understood here", version>>8, version&0xff)
	}
	d.write(protocolVersion)
	d.write(0) // no affinity to a CPU
	d.write(0) // no space to reserve
	if err := d.w.Flush(); err != nil {
		return err
	}
	return d.wait()
}

// queryPathInfos asks for paths all at once; the answer is nil for one that is
// not valid.
func (d *daemon) queryPathInfos(paths []nix.StorePath) ([]*nix.PathInfo, error) {
	for _, path := range paths {
		d.write(opQueryPathInfo)
		d.writeString(path.String())
	}
	if err := d.w.Flush(); err != nil {
		return nil, err
	}
	infos := make([]*nix.PathInfo, len(paths))
	for i, path := range paths {
		if err := d.wait(); err != nil {
			return nil, broken(err) // further answers may follow
		}
		valid, err := d.read()
		if err == nil && valid != 0 {
			infos[i], err = d.readPathInfo(path)
		}
		if err != nil {
			return nil, broken(err)
		}
	}
	return infos, nil
}

// broken makes of a daemon's error one that ends the connection.
func broken(err error) error {
	refused := new(daemonError)
	if errors.As(err, &refused) {
		return errors.New(refused.message)
	}
	return err
}

func (d *daemon) readPathInfo(path nix.StorePath) (*nix.PathInfo, error) {
	info := &nix.PathInfo{Path: path}
	deriver, err := d.readString()
	if err == nil && deriver != "" {
		info.Deriver, err = nix.ParseStorePath(deriver)
	}
	var text string
	if err == nil {
		text, err = d.readString()
	}
	if err == nil {
		info.NarHash, err = nix.ParseHash("sha256:" + text)
	}
	var texts []string
	if err == nil {
		texts, err = d.readStrings()
	}
	for _, text := range texts {
		reference, parseErr := nix.ParseStorePath(text)
		info.References, err = append(info.References, reference), errors.Join(err, parseErr)
	}
	info.References = nix.SortPaths(info.References)
	var size uint64
	if err == nil {
		_, err = d.read() // when it was registered
	}
	if err == nil {
		size, err = d.read()
		info.NarSize = int64(size)
	}
	if err == nil {
		_, err = d.read() // whether it was built there
	}
	if err == nil {
		texts, err = d.readStrings()
	}
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		signature, err := nix.ParseSignature(text)
		if err != nil {
			return nil, fmt.Errorf("a signature of %s: %w", path, err)
		}
		info.Signatures = append(info.Signatures, signature)
	}
	address, err := d.readString()
	if err != nil {
		return nil, err
	}
	if info.CA, err = nix.ParseContentAddress(address); err != nil {
		return nil, fmt.Errorf("the content address of %s: %w", path, err)
	}
	if info.NarSize <= 0 || info.NarSize > nix.MaxNarSize || info.NarHash.IsZero() {
		return nil, fmt.Errorf("the daemon doesn't know the hash or the size of %s", path)
	}
	return info, nil
}

// narFromPath writes the NAR of a path, of that size.
func (d *daemon) narFromPath(path nix.StorePath, size int64, w io.Writer) error {
	d.write(opNarFromPath)
	d.writeString(path.String())
	if err := d.w.Flush(); err != nil {
		return err
	}
	if err := d.wait(); err != nil {
		return err
	}
	_, err := io.CopyN(w, d.r, size)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// A daemonError is an answer that refuses. The connection is as good as before.
type daemonError struct{ message string }

func (e *daemonError) Error() string { return e.message }

// wait reads what the daemon says while it works, up to where it has done so.
func (d *daemon) wait() error {
	for {
		kind, err := d.read()
		if err != nil {
			return err
		}
		switch kind {
		case stderrLast:
			return nil
		case stderrNext:
			_, err = d.readString()
		case stderrStopActivity:
			_, err = d.read()
		case stderrStartActivity: // its number, level, kind, text, fields, parent
			if err = d.skip(3); err == nil {
				_, err = d.readString()
			}
			if err == nil {
				err = d.skipFields()
			}
			if err == nil {
				err = d.skip(1)
			}
		case stderrResult: // the activity's number, kind, fields
			if err = d.skip(2); err == nil {
				err = d.skipFields()
			}
		case stderrError:
			return d.readError()
		default:
			err = fmt.Errorf("the daemon says %#x, which is not understood here", kind)
		}
		if err != nil {
			return err
		}
	}
}

// readError reads an error: type, level, name, message, no position, traces with
// no position and a text.
func (d *daemon) readError() error {
	_, err := d.readString()
	if err == nil {
		err = d.skip(1)
	}
	if err == nil {
		_, err = d.readString()
	}
	var message string
	if err == nil {
		message, err = d.readString()
	}
	if err == nil {
		err = d.skip(1)
	}
	var traces uint64
	if err == nil {
		traces, err = d.read()
	}
	for ; err == nil && traces > 0; traces-- {
		if err = d.skip(1); err == nil {
			_, err = d.readString()
		}
	}
	if err != nil {
		return err
	}
	return &daemonError{colours.ReplaceAllString(message, "")}
}

func (d *daemon) skip(numbers int) error {
	for range numbers {
		if _, err := d.read(); err != nil {
			return err
		}
	}
	return nil
}

// skipFields reads the fields of an activity: numbers and texts.
func (d *daemon) skipFields() error {
	n, err := d.read()
	for ; err == nil && n > 0; n-- {
		var kind uint64
		if kind, err = d.read(); err != nil {
			break
		}
		if kind == 0 {
			err = d.skip(1)
		} else {
			_, err = d.readString()
		}
	}
	return err
}

func (d *daemon) write(n uint64) {
	d.w.Write(bin.LittleEndian.AppendUint64(nil, n)) // Flush has the error
}

func (d *daemon) writeString(s string) {
	d.write(uint64(len(s)))
	d.w.WriteString(s)
	d.w.Write(make([]byte, padding(len(s))))
}

func (d *daemon) read() (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(d.r, b[:])
	return bin.LittleEndian.Uint64(b[:]), err
}

// maxText and maxTexts bound what a daemon may have us keep.
const (
	maxText  = 1 << 20 // bytes
	maxTexts = 1 << 20
)

func (d *daemon) readString() (string, error) {
	n, err := d.read()
	if err == nil && n > maxText {
		err = fmt.Errorf("the daemon sends a text of %d bytes", n)
	}
	if err != nil {
		return "", err
	}
	b := make([]byte, int(n)+padding(int(n)))
	_, err = io.ReadFull(d.r, b)
	return string(b[:n]), err
}

func (d *daemon) readStrings() (texts []string, err error) {
	n, err := d.read()
	if err == nil && n > maxTexts {
		err = fmt.Errorf("the daemon sends %d texts", n)
	}
	for ; err == nil && n > 0; n-- {
		var text string
		text, err = d.readString()
		texts = append(texts, text)
	}
	return slices.Clip(texts), err
}

// padding is what is added to a text so that it ends at a multiple of 8 bytes.
func padding(n int) int { return -n & 7 }

// sizes are those of NARs. They may be used from several goroutines.
type sizes struct {
	mu     sync.Mutex
	byPath map[nix.StorePath]int64
}

func (s *sizes) note(infos []nix.PathInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byPath == nil {
		s.byPath = map[nix.StorePath]int64{}
	}
	for _, info := range infos {
		s.byPath[info.Path] = info.NarSize
	}
}

func (s *sizes) of(path nix.StorePath) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, ok := s.byPath[path]
	return size, ok
}
