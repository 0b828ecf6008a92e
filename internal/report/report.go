// Package report is what a host says of itself: which generation it runs, what it
// boots, what was proven there, and what its last run came to.
//
// A report is one object, reports/<pointer>/<host>.json, which the host writes
// over and over. docs/formats.md specifies it. It is signed by a key of the
// host's own, which only says that this host has said so: who may be believed to
// be the host, its reader has to know ([Parse] takes the keys that are accepted).
//
// # What it can't be mistaken for
//
// What is signed names the pointer and the host, so that no report stands in for
// another host's; the number, which only grows, and the time at which it is too
// old to be believed, so that an old one doesn't stand in for a new one with a
// reader that remembers ([Report.Number]) or looks at its clock
// ([Report.Expired]); and the activation and the boot that it is about, so that
// what was found out of one system isn't taken for another's.
//
// It never says that a generation has failed when it could not be read, or could
// not be judged: those are results of their own.
//
// This package makes no request, and knows no host, pointer or cache: whoever
// reads reports needs nothing else of them.
package report

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// A Report is what a host says. Times are in seconds since 1970.
type Report struct {
	Pointer string `json:"pointer"`
	Host    string `json:"host"`
	Number  uint64 `json:"number"` // grows with each report of this host
	Made    int64  `json:"made"`
	Expires int64  `json:"expires"` // the host will have reported again by then, if it is well
	Boot    string `json:"boot"`    // names the boot of the machine

	Wanted  System `json:"wanted,omitzero"` // the newest generation that was verified
	Running System `json:"running"`
	Boots   System `json:"boots,omitzero"`  // by default
	Proven  Proof  `json:"proven,omitzero"` // the last one

	Result      string        `json:"result"`   // of the last run, of a small set of words
	Sentence    string        `json:"sentence"` // that says it
	Generation  uint64        `json:"generation,omitempty"`
	Path        nix.StorePath `json:"path,omitzero"` // that the result is about
	NeedsReboot bool          `json:"needsReboot,omitempty"`
	Held        *Hold         `json:"held,omitempty"`
}

// A System is a store path, and the generation that it is known as: 0 if none.
type System struct {
	Generation uint64        `json:"generation,omitempty"`
	Path       nix.StorePath `json:"path,omitzero"`
}

// A Proof is that a generation has passed its checks on this host.
type Proof struct {
	System
	Activation string `json:"activation"` // names the attempt
	Boot       string `json:"boot"`       // that it was made in
	At         int64  `json:"at"`
}

// A Hold is that somebody has asked the host not to move.
type Hold struct {
	Until  int64  `json:"until"`
	Reason string `json:"reason"`
}

// MaxSize bounds a report, in bytes. Readers stop there.
const MaxSize = 64 << 10

// Key is where in the cache a host's report is.
func Key(pointer, host string) string { return "reports/" + pointer + "/" + host + ".json" }

// Expired says whether the report is too old for what it says to be believed
// still.
func (r Report) Expired(now time.Time) bool { return now.Unix() >= r.Expires }

// document is the object. The text is a report's JSON, exactly as it was signed.
type document struct {
	Report     string   `json:"report"`
	Signatures []string `json:"signatures"`
}

// Sign is the object that holds a report, signed by a host's key.
func Sign(r Report, key nix.SecretKey) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	text, err := encode(r)
	if err != nil {
		return nil, err
	}
	data, err := encode(document{string(text), []string{key.Sign(r.line(string(text))).String()}})
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("the report of %s has %d bytes, and may have %d", r.Host, len(data), MaxSize)
	}
	return append(data, '\n'), nil
}

// Parse reads the object of a host that follows a pointer. It fails unless one of
// keys has signed it for these.
func Parse(data []byte, pointer, host string, keys nix.Keys) (Report, error) {
	r, err := parse(data, pointer, host, keys)
	if err != nil {
		return Report{}, fmt.Errorf("%s: %w", Key(pointer, host), err)
	}
	return r, nil
}

func parse(data []byte, pointer, host string, keys nix.Keys) (Report, error) {
	if len(data) > MaxSize {
		return Report{}, fmt.Errorf("it has %d bytes, and may have %d", len(data), MaxSize)
	}
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return Report{}, fmt.Errorf("it is no report: %w", err)
	}
	var r Report
	if err := json.Unmarshal([]byte(d.Report), &r); err != nil {
		return Report{}, fmt.Errorf("it is no report: %w", err)
	}
	if err := r.check(); err != nil {
		return Report{}, err
	}
	if r.Pointer != pointer || r.Host != host {
		return Report{}, fmt.Errorf("it is that of %s, which follows %s", r.Host, r.Pointer)
	}
	signatures := make([]nix.Signature, len(d.Signatures))
	for i, text := range d.Signatures {
		var err error
		if signatures[i], err = nix.ParseSignature(text); err != nil {
			return Report{}, fmt.Errorf("%q is not a signature: %w", text, err)
		}
	}
	if !keys.Verify(r.line(d.Report), signatures) {
		return Report{}, hint.With(fmt.Errorf("it is not signed by a key of that host; accepted are %s", keys.Names()),
			"if the host was installed anew, it has a new key: its status shows it")
	}
	return r, nil
}

// line is the text that is signed. It can't be mistaken for what is signed of a
// path or of a pointer.
func (r Report) line(text string) string {
	return fmt.Sprintf("nixos-closure-report;1;%s;%s;%d;%d;%d;%x", r.Pointer, r.Host, r.Number, r.Made, r.Expires, sha256.Sum256([]byte(text)))
}

var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// ValidHost says whether a host may be called that: its name is part of a key and
// of what is signed.
func ValidHost(host string) bool { return name.MatchString(host) }

func (r Report) check() error {
	switch {
	case !name.MatchString(r.Pointer):
		return fmt.Errorf("%q can't be a pointer's name", r.Pointer)
	case !ValidHost(r.Host):
		return hint.With(fmt.Errorf("%q can't be a host's name in a report", r.Host),
			"a name has up to 128 letters, digits, dots, dashes and underscores, and starts with a letter or digit")
	case r.Number == 0 || r.Made <= 0 || r.Expires <= r.Made:
		return errors.New("its number or its times are none")
	case r.Result == "":
		return errors.New("it says nothing")
	}
	return nil
}

// NewKey makes the secret key of a host, in Nix's format. Its name is the host's.
func NewKey(host string) (string, error) {
	if !ValidHost(host) {
		return "", Report{Pointer: "p", Host: host}.check()
	}
	_, secret, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	return host + ":" + base64.StdEncoding.EncodeToString(secret), nil
}

// encode is v's JSON, on one line, with < > & as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
