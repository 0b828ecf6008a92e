package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
)

// The report replaces what is between these lines of docs/performance.md.
const (
	begin = "<!-- what follows is written by make bench -->\n"
	end   = "<!-- until here -->\n"
)

// insert puts the report into a document.
func insert(document, report []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(document, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return nil, fmt.Errorf("it lacks the lines %q and %q, for the report to go between", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return slices.Concat(before, []byte(begin), report, []byte(end), after), nil
}

// report is what was measured, in markdown.
func report(rows []row, all results, machine string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "\n%s\n\n![Time of each row](performance.svg)\n\n", machine)
	b.WriteString("| work | cache | ours | `nix copy` | faster | limit | goal | |\n")
	b.WriteString("| --- | --- | ---: | ---: | ---: | ---: | --- | --- |\n")
	for _, r := range rows {
		if result, ok := all[r.name]; ok {
			goals, verdict := judge(r, result, all)
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.work, r.where,
				timeOf(result.Ours), timeOf(result.Nix), ratio(result), clock(result.Limit), goals, verdict)
		}
	}
	push, fetch := memoryOf(rows, all)
	fmt.Fprintf(&b, "| peak memory of the push rows above, and of the fetch rows | | %d MiB, %d MiB | | | | ≤ 256 MiB | %s |\n",
		push>>20, fetch>>20, verdict(max(push, fetch) <= 256<<20, ""))

	b.WriteString("\nThe same runs, by what else they took, ours / Nix's. Stored is the whole cache, in MB of 10⁶ bytes; CPU is user and\n" +
		"system time in seconds, of the program and of the server where it served nothing else; at once is the most requests in flight.\n\n")
	b.WriteString("| row | runs | spread | CPU | server's CPU | peak MiB | stored MB | requests | at once | measured |\n")
	b.WriteString("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n")
	var busiest sample
	var in string
	for _, r := range rows {
		if result, ok := all[r.name]; ok {
			for _, s := range slices.Concat(result.Ours, result.Nix) {
				if s.ProxyCPU > busiest.ProxyCPU {
					busiest, in = s, r.name
				}
			}
			both := func(text func([]sample) string) string {
				if len(result.Nix) == 0 {
					return text(result.Ours)
				}
				return text(result.Ours) + " / " + text(result.Nix)
			}
			fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %s | %s | %s | %s |\n", r.name, len(result.Ours), both(spread), both(cpuOf), both(serverCPUOf),
				both(peakOf), both(storedOf), both(requestsOf), both(atOnceOf), result.Commit+", "+result.Date)
		}
	}
	fmt.Fprintf(&b, "\nThe proxy that adds the 20 ms took %.1f s of CPU at most, in %s.\n\n", busiest.ProxyCPU, in)
	return b.Bytes()
}

// judge says what a row's goals are and whether they are met.
func judge(r row, got result, all results) (goals, verdicts string) {
	var texts, missed []string
	for _, g := range r.goals {
		texts = append(texts, g.text)
		if text, ok := g.got(got, all); !ok {
			missed = append(missed, text)
		}
	}
	if len(texts) == 0 {
		return "", ""
	}
	return strings.Join(texts, ", "), verdict(len(missed) == 0, strings.Join(missed, ", "))
}

func verdict(met bool, got string) string {
	switch {
	case met:
		return "met"
	case got == "":
		return "**missed**"
	}
	return "**missed**: " + got
}

// memoryOf is the most memory that any of our pushes, and of our fetches, took.
func memoryOf(rows []row, all results) (push, fetch int64) {
	for _, r := range rows {
		switch most := mostMemory(all[r.name].Ours); {
		case strings.HasPrefix(r.name, "push"):
			push = max(push, most)
		case strings.HasPrefix(r.name, "fetch"):
			fetch = max(fetch, most)
		}
	}
	return push, fetch
}

func timeOf(samples []sample) string { return clock(medianOf(samples, seconds)) }

// clock is a duration for people: 218 s, 9.31 s, 84 ms.
func clock(seconds float64) string {
	switch {
	case seconds == 0:
		return ""
	case seconds < 1:
		return fmt.Sprintf("%.0f ms", 1000*seconds)
	case seconds < 100:
		return fmt.Sprintf("%.2f s", seconds)
	}
	return fmt.Sprintf("%.0f s", seconds)
}

func ratio(r result) string {
	if len(r.Nix) == 0 {
		return ""
	}
	got := r.faster()
	return fmt.Sprintf("%.*f×", max(0, 2-int(math.Log10(got))), got)
}

func spread(samples []sample) string {
	if len(samples) == 1 {
		return "–"
	}
	least, most := math.Inf(1), 0.0
	for _, s := range samples {
		least, most = min(least, s.Seconds), max(most, s.Seconds)
	}
	return clock(least) + "–" + clock(most)
}

func cpuOf(samples []sample) string  { return fmt.Sprintf("%.2f", medianOf(samples, cpu)) }
func peakOf(samples []sample) string { return fmt.Sprint(mostMemory(samples) >> 20) }

func serverCPUOf(samples []sample) string {
	return ifAny("%.1f", medianOf(samples, func(s sample) float64 { return s.ServerCPU }))
}

func storedOf(samples []sample) string {
	return ifAny("%.1f", float64(medianOf(samples, stored))/1e6)
}

func requestsOf(samples []sample) string {
	return ifAny("%.0f", medianOf(samples, func(s sample) float64 { return float64(s.Requests) }))
}

func atOnceOf(samples []sample) string {
	return ifAny("%.0f", medianOf(samples, func(s sample) float64 { return float64(s.AtOnce) }))
}

// ifAny is the number, or a dash for what was not measured.
func ifAny(format string, n float64) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprintf(format, n)
}
