package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// TestFleetFigures measures the ways in which a fleet can be published, and
// prints the tables of docs/large-fleets.md: `make fleets`.
func TestFleetFigures(t *testing.T) {
	if os.Getenv("FLEET_FIGURES") != "1" {
		t.Skip("FLEET_FIGURES is not 1")
	}
	fmt.Println("| hosts | | | seconds | of CPU | built | NARs sent | requests |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, m := range []struct {
		hosts int
		name  string
		run   func(*testing.T, *rig, int) string
	}{
		{10, "a put for each", putEach},
		{10, "one put", putOnce},
		{10, "a task, and a put", buildThenPut},
		{50, "one put", putOnce},
		{50, "a task, and a put", buildThenPut},
	} {
		place, requests := counted(t)
		r := newRig(t, nixtest.Current(t), place)
		r.flake(t, fmt.Sprintf("hosts = %d; shared = 380; own = 19; work = 2000000;", m.hosts))
		for _, phase := range []struct {
			name string
			edit func()
		}{
			{"first", func() {}},
			{"nothing changed", func() {}},
			{"one host changed", func() { r.edit(t, "hosts/web-1", "is different now") }},
			{"all changed", func() { r.edit(t, "motd", "the next day") }},
		} {
			phase.edit()
			requests.take()
			r.took = 0
			start := time.Now()
			log := m.run(t, r, m.hosts)
			seconds, all := time.Since(start).Seconds(), requests.take()
			fmt.Printf("| %d | %s | %s | %.0f | %.0f | %d | %d | %d |\n", m.hosts, m.name, phase.name, seconds, r.took.Seconds(), len(builds(log)), len(those(all, "^PUT nar/")), len(all))
		}
	}

	fmt.Println("\n| workers | seconds | memory |\n| --- | --- | --- |")
	r := newRig(t, nixtest.Current(t), directory(t.TempDir()))
	r.flake(t, "hosts = 12; work = 4000000;")
	for _, workers := range []string{"1", "2", "4"} {
		stop, most := make(chan struct{}), make(chan int64)
		go func() { most <- highest(stop, filepath.Join(r.sources, "config")) }()
		start := time.Now()
		log, err := r.buildAll("--all", "--eval-workers", workers)
		seconds := time.Since(start).Seconds()
		close(stop)
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		fmt.Printf("| %s | %.1f | %d MiB |\n", workers, seconds, <-most>>20)
	}
}

// highest is the most memory that the evaluations of a flake have together, in
// bytes, until stop is closed.
func highest(stop chan struct{}, flake string) (highest int64) {
	for {
		select {
		case <-stop:
			return highest
		case <-time.After(10 * time.Millisecond):
			var sum int64
			for _, file := range evaluations(flake) {
				statm, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "statm"))
				var size, resident int64
				fmt.Sscan(string(statm), &size, &resident)
				sum += resident * int64(os.Getpagesize())
			}
			highest = max(highest, sum)
		}
	}
}

// putEach is a put for each host, one after the other, each in a container with
// an empty store. Like the others, it returns the log.
func putEach(t *testing.T, r *rig, hosts int) string {
	var log strings.Builder
	for n := range hosts {
		r.store = r.nix.NewStore(t)
		source := r.publisher()
		source["pointer"] = fmt.Sprint("web-", n+1)
		cmd := call("out", r.sources, r.store.Env(), map[string]any{"source": source, "params": map[string]any{"flake": "config"}})
		cmd.Stderr = &log
		err := cmd.Run()
		r.tookAs(cmd.Cmd)
		if err != nil {
			t.Fatalf("%v\n%s", err, &log)
		}
	}
	return log.String()
}

// putOnce is one put of all hosts, in a container with an empty store.
func putOnce(t *testing.T, r *rig, hosts int) string {
	r.store = r.nix.NewStore(t)
	_, log, err := r.putAll(map[string]any{"all": true})
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	return log
}

// buildThenPut builds in a store that stays, as a task with a warm one does, and
// moves the pointers in a container with an empty store.
func buildThenPut(t *testing.T, r *rig, hosts int) string {
	warm := r.store
	built, err := r.buildAll("--all")
	if err != nil {
		t.Fatalf("%v\n%s", err, built)
	}
	r.store = r.nix.NewStore(t)
	_, log, err := r.putAll(map[string]any{"all": true, "build": "never"})
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	r.store = warm
	return built + log
}
