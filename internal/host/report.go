package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/report"
)

// keyFile holds the secret key that this host signs its reports with.
const keyFile = "host.key"

// Key is the host's own key, which is made when it is asked for first.
func (h *Host) Key() (nix.SecretKey, error) {
	file := filepath.Join(h.Config.StateDir, keyFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		var made string
		if made, err = report.NewKey(h.Config.Name); err == nil {
			text = []byte(made)
			err = replaceFile(file, text, 0o600)
		}
	}
	if err != nil {
		return nix.SecretKey{}, err
	}
	key, err := nix.ParseSecretKey(string(text))
	if err != nil {
		return nix.SecretKey{}, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// PublicKey is the public half of the host's key, if it has one.
func (h *Host) PublicKey() (string, error) {
	if _, err := os.Stat(filepath.Join(h.Config.StateDir, keyFile)); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	key, err := h.Key()
	if err != nil {
		return "", err
	}
	return key.Public().String(), nil
}

// reportFactor is for how many times the usual pause a report is believed. (A
// run may be late, and a machine may be off for a moment.)
const reportFactor = 3

// reportDue says whether there is something to report: news, or that all is as it
// was.
func (r *run) reportDue(news bool) bool {
	every := time.Duration(r.config.ReportEvery)
	return r.config.Report && r.host.Reports != nil && (news || !r.host.now().Before(time.Unix(r.state.Reported.At, 0).Add(every)))
}

// report writes this host's report. Its number is on disk before.
func (r *run) report(ctx context.Context, s Status) error {
	key, err := r.host.Key()
	if err != nil {
		return err
	}
	now := r.host.now()
	made := report.Report{
		Pointer: string(s.Pointer),
		Host:    s.Host,
		// A host that has lost its state doesn't begin again at 1.
		Number:      max(r.state.Reported.Number+1, uint64(max(1, now.Unix()))),
		Made:        now.Unix(),
		Expires:     now.Add(reportFactor * time.Duration(r.config.ReportEvery)).Unix(),
		Boot:        r.boot,
		Wanted:      report.System{Generation: s.Wanted.Number, Path: s.Wanted.Path},
		Running:     report.System{Generation: s.RunningGeneration, Path: s.Running},
		Boots:       report.System{Generation: s.BootsGeneration, Path: s.Boots},
		Result:      string(s.Last.Result),
		Sentence:    s.Last.Sentence,
		Generation:  s.Last.Generation,
		Path:        s.Last.Path,
		NeedsReboot: s.Last.NeedsReboot,
	}
	if p := r.state.Proven; p != nil {
		made.Proven = report.Proof{System: report.System{Generation: p.Number, Path: p.Path}, Activation: p.Activation, Boot: p.Boot, At: p.At}
	}
	if s.Hold != nil {
		made.Held = &report.Hold{Until: s.Hold.Until.Unix(), Reason: s.Hold.Reason}
	}
	data, err := report.Sign(made, key)
	if err != nil {
		return err
	}
	before := r.state.Reported
	r.state.Reported.Number = made.Number
	if err := r.save("reporting"); err != nil {
		return err
	}
	_, err = r.host.Reports.Put(ctx, report.Key(made.Pointer, made.Host), bytes.NewReader(data), blob.PutOptions{
		ContentType: "application/json", CacheControl: "no-cache",
	})
	if err != nil {
		r.state.Reported.At = before.At // so that the next run tries again
		return err
	}
	r.state.Reported.At = made.Made
	return r.save("reported")
}
