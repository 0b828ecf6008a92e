package host

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"context"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/report"
)

// reported is what the host has reported, by its own key.
func (m *machine) reported() report.Report {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Join(m.cache, report.Key("web-1", "host-1")))
	must(m.t, err)
	key, err := (&Host{Config: m.Config}).Key()
	must(m.t, err)
	r, err := report.Parse(data, "web-1", "host-1", nix.Keys{key.Public()})
	must(m.t, err)
	return r
}

func TestReports(t *testing.T) {
	m := newMachine(t)
	m.Config.Report = true
	m.comesTo(NothingNew)
	first := m.reported()
	if first.Result != "nothing-new" || first.Running.Generation != 1 || first.Boot != "first" {
		t.Errorf("got %+v", first)
	}

	// Not at each run, but when there is news, and once in a while.
	m.advance(time.Hour - time.Second)
	m.comesTo(NothingNew)
	if got := m.reported(); got.Number != first.Number {
		t.Errorf("report %d was followed by %d though nothing was new", first.Number, got.Number)
	}
	m.advance(time.Second)
	m.comesTo(NothingNew)
	second := m.reported()
	if second.Number <= first.Number || second.Made != m.now().Unix() || second.Expires != m.now().Add(3*time.Hour).Unix() {
		t.Errorf("want another report an hour after %+v, got %+v", first, second)
	}

	g := m.put("b")
	m.comesTo(Switched)
	third := m.reported()
	if third.Result != "switched" || third.Generation != g.Number || third.Running.Generation != g.Number || third.Boots.Path != g.Path ||
		third.Proven.Generation != g.Number || third.Proven.Activation == "" || third.Proven.Boot != "first" || third.Number <= second.Number {
		t.Errorf("got %+v", third)
	}

	// What has failed is not what runs, and what was proven is still what was.
	failed := m.put("sick")
	m.comesTo(Failed)
	if r := m.reported(); r.Result != "failed" || r.Generation != failed.Number || r.Running.Generation != g.Number || r.Proven.Generation != g.Number || r.Wanted.Generation != failed.Number {
		t.Errorf("got %+v", r)
	}
	m.put("outage")
	m.comesTo(Inconclusive)
	if r := m.reported(); r.Result != "inconclusive" || r.Running.Generation != g.Number {
		t.Errorf("got %+v", r)
	}

	// Numbers grow on, though the state is lost.
	last := m.reported().Number
	must(t, os.Remove(filepath.Join(m.Config.StateDir, stateFile)))
	must(t, os.Remove(m.file("outage")))
	m.advance(time.Hour)
	m.put("b")
	m.comesTo(NothingNew)
	if got := m.reported().Number; got <= last {
		t.Errorf("report %d is followed by %d", last, got)
	}
}

// A transport failure is reported as one.
func TestUnreachableIsNoRollback(t *testing.T) {
	m := newMachine(t)
	m.Config.Report = true
	m.comesTo(NothingNew)
	must(t, os.Rename(m.cache+"/nar", m.cache+"/nars"))
	g := m.put("b")
	m.comesTo(Unreachable)
	if r := m.reported(); r.Result != "unreachable" || r.Generation != g.Number || r.Running.Generation != 1 {
		t.Errorf("got %+v", r)
	}
}

// A report that can't be written fails nothing, and is written later.
func TestReportFails(t *testing.T) {
	m := newMachine(t)
	m.Config.Report = true
	m.put("b")
	h, err := m.agent().host(t.Logf)
	must(t, err)
	h.Reports = readOnly{h.Reports}
	outcome, err := h.Follow(t.Context(), Request{})
	must(t, err)
	if outcome.Result != Switched {
		t.Errorf("want switched, got %s", outcome.Sentence)
	}
	m.comesTo(NothingNew)
	if r := m.reported(); r.Result != "nothing-new" {
		t.Errorf("got %+v", r)
	}
}

// A readOnly store takes nothing.
type readOnly struct{ blob.Store }

func (readOnly) Put(context.Context, string, io.Reader, blob.PutOptions) (blob.Info, error) {
	return blob.Info{}, blob.ErrReadOnly
}

// The host's secret key is for the host alone, and is kept.
func TestHostKey(t *testing.T) {
	m := newMachine(t)
	h := &Host{Config: m.Config}
	must(t, os.MkdirAll(m.Config.StateDir, 0o755))
	if public, err := h.PublicKey(); public != "" || err != nil {
		t.Errorf("a host that hasn't reported has a key: %q, %v", public, err)
	}
	key, err := h.Key()
	must(t, err)
	again, err := h.Key()
	must(t, err)
	if key.Public() != again.Public() {
		t.Error("it has another key each time")
	}
	info, err := os.Stat(filepath.Join(m.Config.StateDir, keyFile))
	must(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("the key's file has mode %v", info.Mode())
	}
	must(t, os.WriteFile(filepath.Join(m.Config.StateDir, keyFile), []byte("secret"), 0o600))
	if _, err := h.Key(); err == nil || strings.Contains(err.Error(), "secret\n") || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("want an error about the key, got %v", err)
	}
}

// What node_exporter reads, and what a hook gets.
func TestMetricsAndPost(t *testing.T) {
	m := newMachine(t)
	m.Config.MetricsFile = m.file("metrics.prom")
	m.Config.Post = []string{"/bin/sh", "-c", `echo "$FOLLOW_RESULT $FOLLOW_GENERATION $FOLLOW_STATUS $FOLLOW_NEEDS_REBOOT" >> "$0"`, m.file("posted")}
	m.comesTo(NothingNew)
	m.comesTo(NothingNew)
	m.put("sick")
	m.comesTo(Failed)
	m.put("b")
	m.comesTo(Switched)
	posted, err := os.ReadFile(m.file("posted"))
	must(t, err)
	if got, want := string(posted), "nothing-new 1 0 false\nfailed 2 14 false\nswitched 3 0 false\n"; got != want {
		t.Errorf("want the hook to have said\n%s, got\n%s", want, got)
	}
	data, err := os.ReadFile(m.Config.MetricsFile)
	must(t, err)
	for _, want := range []string{
		`nixos_closure_generation_wanted{pointer="web-1"} 3`,
		`nixos_closure_generation_running{pointer="web-1"} 3`,
		`nixos_closure_failed_generations{pointer="web-1"} 1`,
		`nixos_closure_held{pointer="web-1"} 0`,
		`nixos_closure_result{pointer="web-1",result="switched"} 1`,
	} {
		if !strings.Contains(string(data), want+"\n") {
			t.Errorf("the metrics lack %s:\n%s", want, data)
		}
	}
	m.Config.Post = []string{"/bin/sh", "-c", "exit 1"}
	m.Config.MetricsFile = "/proc/nowhere/metrics"
	m.put("c")
	m.comesTo(Switched)
}
