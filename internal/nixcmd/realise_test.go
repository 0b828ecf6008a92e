package nixcmd

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// What is asked for is built together; what fails stops only what depends on it,
// and is told with the end of its log.
func TestRealise(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs, sources := n.NewStore(t), nixtest.Sample(t)
		theirs.Setenv(t)
		file := write(t, sources, `rec {
			good = build "good" { } "echo this is good >&2; mkdir $out";
			outputs = build "outputs" { outputs = [ "out" "dev" ]; } "mkdir $out $dev";
			bad = build "bad" { } "for i in $(seq 30); do echo line $i >&2; done; exit 3";
			worse = build "worse" { } "echo this is worse; exit 4";
			atop = build "atop" { inherit bad good; } "mkdir $out";
			highest = build "highest" { inherit atop; } "mkdir $out";
		}`)
		var log bytes.Buffer
		store := open(t, &log)
		all := map[string]Derivation{}
		for _, name := range []string{"good", "outputs.dev", "bad", "worse", "atop", "highest"} {
			all[name] = evaluate(t, store, Installable{File: file, Attribute: name})
		}

		asked := []Derivation{all["highest"], all["good"], all["worse"], all["outputs.dev"]}
		got, err := store.Realise(t.Context(), asked...)
		if diff := cmp.Diff([]nix.StorePath{{}, all["good"].OutPath, {}, all["outputs.dev"].OutPath}, got, comparePaths); diff != "" {
			t.Errorf("paths (-want +got)\n%s", diff)
		}
		var failure *BuildError
		if !errors.As(err, &failure) {
			t.Fatalf("got error %v, want a BuildError", err)
		}
		if diff := cmp.Diff([]Derivation{all["highest"], all["worse"]}, failure.Missing, comparePaths); diff != "" {
			t.Errorf("missing (-want +got)\n%s", diff)
		}
		failed := map[nix.StorePath]Failure{}
		for _, f := range failure.Failed {
			failed[f.Derivation] = f
		}
		bad, worse := failed[all["bad"].Path], failed[all["worse"].Path]
		if len(failed) != 2 || bad.Reason != "builder failed with exit code 3" || worse.Reason != "builder failed with exit code 4" {
			t.Errorf("got failures %+v", failure.Failed)
		}
		if lines := strings.Join(bad.LastLines, "\n"); len(bad.LastLines) != keptLines || !strings.HasPrefix(lines, "line 11\n") || !strings.HasSuffix(lines, "\nline 30") {
			t.Errorf("got the last lines\n%s", lines)
		}
		for _, want := range []string{"\ngood> this is good\n", "\nbad> line 1\n", "\nworse> this is worse\n", "building '" + all["good"].Path.String() + "'"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, &log)
			}
		}

		// Each is told only of what it needs itself.
		for name, want := range map[string]nix.StorePath{"highest": all["bad"].Path, "worse": all["worse"].Path} {
			reason, err := store.Blame(t.Context(), failure, all[name])
			var about *BuildError
			if err != nil || !errors.As(reason, &about) {
				t.Fatal(reason, err)
			}
			if len(about.Failed) != 1 || about.Failed[0].Derivation != want || len(about.Missing) != 1 || about.Missing[0] != all[name] {
				t.Errorf("%s is told of %+v", name, about)
			}
		}

		// What is there already is found, and isn't built again.
		log.Reset()
		got, err = store.Realise(t.Context(), all["good"], all["good"])
		if diff := cmp.Diff([]nix.StorePath{all["good"].OutPath, all["good"].OutPath}, got, comparePaths); err != nil || diff != "" {
			t.Errorf("error %v, paths (-want +got)\n%s", err, diff)
		}
		if log.Len() > 0 {
			t.Errorf("got the log\n%s", &log)
		}
	})
}

// What Nix itself says is the error where no builder failed.
func TestRealiseWithoutBuilder(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs, sources := n.NewStore(t), nixtest.Sample(t)
		theirs.Setenv(t)
		store := open(t, nil)
		d := evaluate(t, store, Installable{File: filepath.Join(sources, "config"), Attribute: "web-1", System: "riscv64-linux"})
		_, err := store.Realise(t.Context(), d)
		if err == nil || !strings.Contains(err.Error(), "riscv64-linux") {
			t.Errorf("got error %v, want one that names the system", err)
		}
	})
}

// signalWriter closes itself when a text has been written.
type signalWriter struct {
	text string
	seen chan struct{}
	got  []byte
}

func (w *signalWriter) Write(p []byte) (int, error) {
	before := bytes.Contains(w.got, []byte(w.text))
	w.got = append(w.got, p...)
	if !before && bytes.Contains(w.got, []byte(w.text)) {
		close(w.seen)
	}
	return len(p), nil
}

// The log comes while the build runs, and ending the context ends the build,
// with the builder and what that has started.
func TestRealiseCancelled(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nixtest.Nix) {
		theirs, sources := n.NewStore(t), nixtest.Sample(t)
		theirs.Setenv(t)
		marker := "marker-" + filepath.Base(filepath.Dir(theirs.Dir)) + t.Name()
		file := write(t, sources, `build "endless" { } "echo it has begun >&2; sh -c 'sleep 1000; true `+marker+`' & wait"`)
		log := &signalWriter{text: "it has begun", seen: make(chan struct{})}
		store := open(t, log)
		endless := evaluate(t, store, Installable{File: file})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := store.Realise(ctx, endless)
			done <- err
		}()
		select {
		case err := <-done:
			t.Fatalf("the build ended by itself: %v\n%s", err, log.got)
		case <-log.seen:
		}
		if len(processes(t, marker)) == 0 {
			t.Error("the builder isn't found")
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want context.Canceled", err)
		}
		waitUntil(t, "the builder is gone", func() bool { return len(processes(t, marker)) == 0 })
	})
}
