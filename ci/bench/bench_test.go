package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == launchArg {
		os.Exit(launch(os.Args[2:]))
	}
	status := m.Run()
	os.RemoveAll(built)
	os.Exit(status)
}

var built string // the directory of the programs, if a test needed them

var buildPrograms = sync.OnceValues(func() (string, error) {
	var err error
	if built, err = os.MkdirTemp("", "programs"); err != nil {
		return "", err
	}
	return built, nixtest.BuildPrograms(built+"/", "", "../../cmd/check", "../../cmd/in", "../../cmd/out")
})

// What is measured is the program, with its children, and not who measures.
func TestMeasure(t *testing.T) {
	ours := make([]byte, 160<<20)
	for i := range ours {
		ours[i] = 1
	}
	small, out, err := measure(t.Context(), command{args: []string{"cat"}, stdin: "hello", env: os.Environ()})
	if err != nil || string(out) != "hello" {
		t.Fatalf("cat printed %q, %v", out, err)
	}
	large, _, err := measure(t.Context(), command{args: []string{"sh", "-c", "head -c 192M /dev/zero | tail -c 192M >/dev/null; sleep 0.05"}, env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("cat took %d MiB", small.Peak>>20)
	if small.Peak > 96<<20 {
		t.Errorf("cat took %d MiB", small.Peak>>20)
	}
	if large.Peak < 192<<20 || large.CPU <= 0 || large.Seconds < 0.05 {
		t.Errorf("what a child took doesn't show: %+v", large)
	}
	if _, _, err := measure(t.Context(), command{args: []string{"sh", "-c", "echo why >&2; exit 3"}, env: os.Environ()}); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a program that fails: %v, want what it said", err)
	}
	if ours[len(ours)-1] == 0 {
		t.Error("unreachable: it keeps the memory alive")
	}
}

// The report says what was measured, and what was missed.
func TestReport(t *testing.T) {
	runs := func(seconds ...float64) (samples []sample) {
		for _, s := range seconds {
			samples = append(samples, sample{usage: usage{Seconds: s, CPU: 2 * s, Peak: 100 << 20}, traffic: traffic{Requests: 7, AtOnce: 2}, ProxyCPU: s / 10, Stored: int64(1e6 * (s + 1))})
		}
		return samples
	}
	rows := []row{
		{name: "push", work: "push it", where: versitygw, goals: []goal{faster(2), notLarger(3), requests(7)}},
		{name: "check", work: "`check`", where: versitygw, goals: []goal{withinLimits(2)}},
		{name: "push-all", work: "push all", where: directory, goals: []goal{memory(99), linearIn("push", 3)}},
		{name: "not-measured", work: "unmeasured work"},
	}
	all := results{
		"push":     {Commit: "abc", Date: "2026-11-22", Ours: runs(1, 3, 2), Nix: runs(2, 9, 5), Limit: 0.5},
		"check":    {Commit: "abc", Ours: runs(0.1), Limit: 0.04},
		"push-all": {Commit: "def", Ours: runs(7)},
	}
	text := string(report(rows, all, "Measured on a machine."))
	for _, want := range []string{
		"| push it | versitygw | 2.00 s | 5.00 s | 2.50× | 500 ms | ≥ 2× faster, ≤ 3 % larger, ≤ 7 requests | met |\n",
		"| `check` | versitygw | 100 ms |  |  | 40 ms | ≤ 2× the limit | **missed**: 2.50× |\n",
		"| push all | a directory | 7.00 s |  |  |  | ≤ 99 MiB, ≤ 3.0× the time of push | **missed**: 100 MiB, 3.5× |\n",
		"| push | 3 | 1.00 s–3.00 s / 2.00 s–9.00 s | 4.00 / 10.00 | – / – | 100 / 100 | 3.0 / 6.0 | 7 / 7 | 2 / 2 | abc, 2026-11-22 |\n",
		"took 0.9 s of CPU at most, in push.\n",
		"| 100 MiB, 0 MiB | | | | ≤ 256 MiB | met |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no line %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "unmeasured") {
		t.Errorf("a row that was not measured is in\n%s", text)
	}

	decoder := xml.NewDecoder(strings.NewReader(string(plot(rows, all))))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the plot is not XML: %v", err)
		}
	}
}

// The report replaces the one before, and nothing else.
func TestInsert(t *testing.T) {
	document := []byte("# Title\n" + begin + "old\n" + end + "Findings.\n")
	got, err := insert(document, []byte("new\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("# Title\n"+begin+"new\n"+end+"Findings.\n", string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := insert([]byte("# Title\n"), nil); err == nil {
		t.Error("a document without a place for the report was taken")
	}
}
