package host

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// These are the attacks of the TUF specification, by somebody who may write
// anything to the cache and has no key, or who has a way to the host's state or
// clock. Whatever they do, the host runs on what it runs. What may be accepted is
// decided, and tested case by case, in package pointer; these tests are that the
// host asks, remembers, and does nothing else.

func (m *machine) pointerFile() string { return filepath.Join(m.cache, "pointers/web-1.json") }

func (m *machine) readPointer() []byte {
	m.t.Helper()
	data, err := os.ReadFile(m.pointerFile())
	must(m.t, err)
	return data
}

// serves replaces what the cache says of the pointer.
func (m *machine) serves(data []byte) {
	m.t.Helper()
	must(m.t, os.WriteFile(m.pointerFile(), data, 0o644))
}

// refuses makes a run that has to refuse, and to change nothing.
func (m *machine) refuses(sentence string) {
	m.t.Helper()
	before := m.name("run/current-system")
	m.activations()
	outcome := m.comesTo(Refused)
	if !strings.Contains(outcome.Sentence, sentence) {
		m.t.Errorf("want a sentence with %q, got %q", sentence, outcome.Sentence)
	}
	m.is(before, before, before)
	if got := m.activations(); got != "" {
		m.t.Errorf("it has activated %q", got)
	}
}

func TestRollbackAttack(t *testing.T) {
	m := newMachine(t)
	m.put("b")
	old := m.readPointer()
	m.put("c")
	m.comesTo(Switched)
	m.serves(old)
	m.refuses("offers generation 2, and had generation 3")
	must(t, os.Remove(m.pointerFile()))
	m.refuses("has no generation, and had generation 3")
}

// A generation that was seen, and didn't get as far as to be run, counts.
func TestRollbackAttackOnWhatWasSeen(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("b")
	old := m.readPointer()
	m.put("c")
	must(t, WriteHold(m.Config.StateDir, Hold{m.now().Add(time.Hour), "not now"}))
	m.comesTo(Held)
	must(t, os.Remove(filepath.Join(m.Config.StateDir, holdFile)))
	m.serves(old)
	m.refuses("offers generation 2, and had generation 3")
	must(t, os.RemoveAll(m.Config.StateDir))
	m.refuses("offers generation 2, and had generation 3")
}

// Without its state, a host goes by the names of its roots.
func TestStateDeleted(t *testing.T) {
	m := newMachine(t)
	m.put("b")
	m.comesTo(Switched)
	old := m.readPointer()
	m.put("c")
	m.comesTo(Switched)
	must(t, os.RemoveAll(m.Config.StateDir))
	m.serves(old)
	m.refuses("offers generation 2, and had generation 3")

	// Without both, by what runs.
	for _, deleted := range []string{m.Config.StateDir, m.Config.GCRoots} {
		must(t, os.RemoveAll(deleted))
	}
	m.refuses("nothing is remembered of")
	m.Request.TrustOnFirstUse = true
	m.comesTo(Switched) // a person has said so
	m.is("b", "b", "b")
}

func TestFreezeAttack(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	p := pointer.New(blob.NewDirectory(m.cache), pointer.Config{
		Name: "web-1", PublicKeys: nix.Keys{m.lab.key.Public()}, RequireSigs: true, SigningKeys: []nix.SecretKey{m.lab.key}, Now: m.now, ExpiresAfter: 24 * time.Hour,
	})
	_, err := p.Append(t.Context(), pointer.Proposal{Path: m.lab.systems["b"], System: "x86_64-linux", NarHash: m.lab.infos["b"].NarHash})
	must(t, err)
	must(t, WriteHold(m.Config.StateDir, Hold{m.now().Add(time.Hour), "not now"}))
	m.comesTo(Held)
	m.advance(24 * time.Hour)
	m.refuses("has expired")
}

// What has expired doesn't come to life by a clock that was set back.
func TestClockSetBack(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	expiring := pointer.New(blob.NewDirectory(m.cache), pointer.Config{
		Name: "web-1", PublicKeys: nix.Keys{m.lab.key.Public()}, RequireSigs: true, SigningKeys: []nix.SecretKey{m.lab.key}, Now: m.now, ExpiresAfter: 24 * time.Hour,
	})
	_, err := expiring.Append(t.Context(), pointer.Proposal{Path: m.lab.systems["b"], System: "x86_64-linux", NarHash: m.lab.infos["b"].NarHash})
	must(t, err)
	must(t, WriteHold(m.Config.StateDir, Hold{start.Add(1000 * time.Hour), "not now"}))
	m.comesTo(Held)
	m.advance(48 * time.Hour)
	old := m.readPointer()
	m.advance(time.Hour)
	_, err = expiring.Append(t.Context(), pointer.Proposal{Path: m.lab.systems["c"], System: "x86_64-linux", NarHash: m.lab.infos["c"].NarHash})
	must(t, err)
	m.comesTo(Held) // and sees what time it is

	state, err := ReadState(m.Config.StateDir)
	must(t, err)
	if got, want := state.Seen["web-1"].Created, start.Add(49*time.Hour).Unix(); got != want {
		t.Fatalf("the host remembers that it is %d or later, want %d", got, want)
	}
	must(t, os.Remove(filepath.Join(m.Config.StateDir, holdFile)))

	// Of the two histories that were true, the attacker has kept the older one; its
	// newest generation would be alive at the time that the clock was set to. So
	// that its number isn't what it is refused by, the host has forgotten that.
	seen := state.Seen["web-1"]
	seen.Number, seen.Path = 2, m.lab.systems["b"]
	state.Seen["web-1"], state.Offered = seen, nil
	must(t, state.write(m.Config.StateDir))
	m.setClock(start.Add(time.Hour))
	m.serves(old)
	m.refuses("has expired")
}

func TestGenerationFromTheFuture(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.advance(time.Hour)
	m.put("b")
	m.advance(-time.Hour)
	m.refuses("and it is only")
}

// The host's pointer is a copy of another host's, with that one's signatures.
func TestWrongPointer(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	other := pointer.New(blob.NewDirectory(m.cache), pointer.Config{
		Name: "web-2", PublicKeys: nix.Keys{m.lab.key.Public()}, RequireSigs: true, SigningKeys: []nix.SecretKey{m.lab.key}, Now: m.now,
	})
	for _, name := range []string{"a", "b"} {
		_, err := other.Append(t.Context(), pointer.Proposal{Path: m.lab.systems[name], System: "x86_64-linux", NarHash: m.lab.infos[name].NarHash})
		must(t, err)
	}
	data, err := os.ReadFile(filepath.Join(m.cache, "pointers/web-2.json"))
	must(t, err)
	m.serves(data)
	m.refuses("it is a copy of the pointer web-2")
	m.serves(bytes.Replace(data, []byte(`"web-2"`), []byte(`"web-1"`), 1))
	m.refuses("does not match its signature")
}

// It is for other machines, and rightly signed.
func TestWrongHost(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("b", func(p *pointer.Proposal) { p.System = "aarch64-linux" })
	m.refuses("is for aarch64-linux, and this is x86_64-linux")
}

// The pointer is new, and the cache has other files under its path than when it
// was put, signed as well.
func TestMixAndMatch(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.put("b", func(p *pointer.Proposal) { p.NarHash = m.lab.infos["sick"].NarHash })
	m.refuses("the cache has other files under")
}

// Who serves no end of data gets no further than to the bounds.
func TestEndlessPointer(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	m.serves(append(m.readPointer(), bytes.Repeat([]byte(" "), 2<<20)...))
	m.refuses("is larger than")
}

// Nor does who serves another file for a path: neither we nor Nix take it.
func TestDamagedFiles(t *testing.T) {
	for what, damage := range map[string]func([]byte) []byte{
		"endless":  func(data []byte) []byte { return append(data, bytes.Repeat([]byte{0}, 1<<20)...) },
		"cut off":  func(data []byte) []byte { return data[:len(data)/2] },
		"replaced": func(data []byte) []byte { return bytes.Repeat([]byte{1}, len(data)) },
	} {
		t.Run(what, func(t *testing.T) {
			m := newMachine(t)
			m.comesTo(NothingNew)
			m.put("b")
			files, err := filepath.Glob(filepath.Join(m.cache, "nar/*"))
			must(t, err)
			for _, file := range files {
				data, err := os.ReadFile(file)
				must(t, err)
				must(t, os.Remove(file)) // it may be shared
				must(t, os.WriteFile(file, damage(data), 0o644))
			}
			m.activations()
			m.comesTo(Unreachable)
			if got := m.activations(); got != "" {
				t.Errorf("it has activated %q", got)
			}
			m.is("a", "a", "a")
			if _, err := m.store.Try("nix-store", "--check-validity", m.lab.systems["b"].String()); err == nil {
				t.Error("a damaged path is valid")
			}
		})
	}
}

// A key that is trusted for paths, or for nothing, doesn't move the host.
func TestStrangersKey(t *testing.T) {
	m := newMachine(t)
	m.comesTo(NothingNew)
	strangers, err := nix.ParseSecretKey(nixtest.NewKey(t, "cache.example.org-1").Secret)
	must(t, err)
	must(t, os.Remove(m.pointerFile()))
	must(t, os.Remove(strings.TrimSuffix(m.pointerFile(), ".json")))
	theirs := pointerAt(blob.NewDirectory(m.cache), strangers.Public(), m.now, strangers)
	_, err = theirs.Append(t.Context(), pointer.Proposal{Path: m.lab.systems["b"], System: "x86_64-linux", NarHash: m.lab.infos["b"].NarHash})
	must(t, err)
	m.refuses("does not match its signature")
}

// A state that somebody has broken is not taken for none.
func TestStateBroken(t *testing.T) {
	m := newMachine(t)
	m.put("b")
	m.comesTo(Switched)
	must(t, os.WriteFile(filepath.Join(m.Config.StateDir, stateFile), []byte("{"), 0o644))
	if _, err := m.tryFollow(); err == nil || !strings.Contains(err.Error(), "is not as it was written") {
		t.Errorf("want an error about the state, got %v", err)
	}
	if _, err := ReadState(filepath.Join(m.root, "nowhere")); err != nil && errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
