package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// The pipeline's test boots the candidate, in QEMU, from nothing but the driver's
// closure, in a container without privileges, without Nix and without KVM. What
// boots and answers ships; what doesn't boot doesn't, and the log has its
// console.
//
// With NIXOS_CLOSURE_TEST_BOOT=all, as in make vm-test, what doesn't answer as it
// should is booted, too, and then the fix of both.
func TestBoot(t *testing.T) {
	vm := nixtest.VM(t)
	programs := prepareMachine(t)
	var log bytes.Buffer
	r := &rehearsal{
		dir: nixtest.TempDir(t), programs: programs, out: &log, labels: map[string]string{},
		files: map[string][]byte{"vm.nix": []byte(vm)},
		edit: strings.NewReplacer( // a flake may not look at .cache

			`{flake: config, attribute: 'nixosConfigurations."((host))".config.system.build.toplevel'}`, "{file: config/machine.nix, attribute: web-1}",
			"{flake: config, attribute: ((test))}", "{file: config/machine.nix, attribute: driver}",
		),
	}
	for _, name := range []string{"machine.nix", "nixos-test-driver.sh", "stage-1.sh", "stage-2.sh"} {
		data, err := os.ReadFile(filepath.Join("ci/rehearsal/machine", name))
		if err != nil {
			t.Fatal(err)
		}
		r.files[name] = data
	}
	if err := r.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}

	// play lets the pipeline do what there is to do, and says what the host and
	// its candidate are then, and what was in the log.
	play := func() (host, candidate, said string) {
		t.Helper()
		log.Reset()
		if err := r.play(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Log(log.String())
		return r.pointer("web-1"), r.pointer("web-1-candidate"), log.String()
	}
	says := func(said string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(said, w) {
				t.Errorf("the log doesn't say %q", w)
			}
		}
	}

	host, candidate, said := play()
	if host == "" || host != candidate {
		t.Errorf("the host's pointer is at %q, the candidate's at %q", host, candidate)
	}
	says(said, "machine # Could not access KVM kernel module: No such file or directory", "falling back to tcg", "machine # stage 2: this is ", "machine: all tests have passed")
	for _, name := range []string{"machine.log", "machine.ppm"} {
		found, err := filepath.Glob(r.path("containers/*/test-output/" + name))
		if err != nil || len(found) != 1 {
			t.Errorf("%s is not in the task's output: %v", name, found)
		}
	}

	breaks := func(message, edit, console string) {
		t.Helper()
		if err := r.change(t.Context(), message, "stage-2.sh", edit); err != nil {
			t.Fatal(err)
		}
		stays, next, said := play()
		if stays != host || next == candidate {
			t.Errorf("%s: the host's pointer is at %s, was at %s; the candidate's is at %s", message, stays, host, next)
		}
		says(said, console, "machine: error: ")
		candidate = next
	}
	breaks("Leave the init too early", "2i exit 1", "Kernel panic - not syncing: Attempted to kill init!")
	if os.Getenv("NIXOS_CLOSURE_TEST_BOOT") != "all" {
		return
	}
	breaks("Serve something else", "2d; s|/html|/logs|", "machine: error: that failed, with status :1:")
	if err := r.change(t.Context(), "Serve the page again", "stage-2.sh", "s|/logs|/html|; $a # as before"); err != nil {
		t.Fatal(err)
	}
	ships, next, _ := play()
	if ships != next || ships == host {
		t.Errorf("the fix: the host's pointer is at %s, the candidate's at %s", ships, next)
	}
}

// pointer is the path that a pointer is at.
func (r *rehearsal) pointer(name string) string {
	data, err := os.ReadFile(r.path("cache/pointers/" + name))
	if err != nil {
		return fmt.Sprint(err)
	}
	return strings.TrimSpace(string(data))
}
