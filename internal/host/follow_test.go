package host

import (
	"strings"
	"testing"
)

func TestSwitch(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("b")
	m.comesTo(Switched)
	m.is("b", "b", "b")
	if got, want := m.activations(), "test b, boot b"; got != want {
		t.Errorf("want activations %q, got %q", want, got)
	}
	m.comesTo(NothingNew)
	if got := m.activations(); got != "" {
		t.Errorf("a run with nothing new has activated %q", got)
	}
	m.put("c")
	m.put("a")
	m.comesTo(Switched)
	m.is("a", "a", "a")
	if got := m.activations(); strings.Contains(got, "c") {
		t.Errorf("a generation that was not the newest any more was activated: %q", got)
	}
}
