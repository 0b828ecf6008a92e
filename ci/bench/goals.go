package main

import (
	"fmt"
	"slices"
)

// A result is what was measured for a row.
type result struct {
	Commit    string // of the programs
	Date      string
	Ours, Nix []sample // in pairs; Nix may be empty
	Limit     float64  // in seconds, 0 if there is none
}

// results are by the name of the row.
type results map[string]result

// A goal is what a row has to reach.
type goal struct {
	text string
	// got returns what was reached, as text, and whether it suffices.
	got func(r result, all results) (string, bool)
}

func faster(times float64) goal {
	return goal{fmt.Sprintf("≥ %g× faster", times), func(r result, _ results) (string, bool) {
		got := r.faster()
		return fmt.Sprintf("%.2f×", got), got >= times
	}}
}

func notLarger(percent float64) goal {
	return goal{fmt.Sprintf("≤ %g %% larger", percent), func(r result, _ results) (string, bool) {
		got := 100 * (float64(medianOf(r.Ours, stored))/float64(medianOf(r.Nix, stored)) - 1)
		return fmt.Sprintf("%+.1f %%", got), got <= percent
	}}
}

func requests(most int) goal {
	text := fmt.Sprintf("≤ %d requests", most)
	if most == 1 {
		text = "1 request"
	}
	return goal{text, func(r result, _ results) (string, bool) {
		got := 0
		for _, s := range r.Ours {
			got = max(got, s.Requests)
		}
		return fmt.Sprint(got), got <= most
	}}
}

func withinLimits(times float64) goal {
	return goal{fmt.Sprintf("≤ %g× the limit", times), func(r result, _ results) (string, bool) {
		got := medianOf(r.Ours, seconds) / r.Limit
		return fmt.Sprintf("%.2f×", got), got <= times
	}}
}

func memory(most int64) goal {
	return goal{fmt.Sprintf("≤ %d MiB", most), func(r result, _ results) (string, bool) {
		got := mostMemory(r.Ours)
		return fmt.Sprintf("%d MiB", got>>20), got <= most<<20
	}}
}

// linearIn is reached by who takes no longer than so many times what another
// row took; a tenth is forgiven.
func linearIn(other string, times float64) goal {
	return goal{fmt.Sprintf("≤ %.1f× the time of %s", times, other), func(r result, all results) (string, bool) {
		got := medianOf(r.Ours, seconds) / medianOf(all[other].Ours, seconds)
		return fmt.Sprintf("%.1f×", got), got <= 1.1*times
	}}
}

// faster is how many times faster ours was: the median of what the pairs say,
// each of which was measured in the same minute.
func (r result) faster() float64 {
	var ratios []float64
	for i, n := range r.Nix {
		ratios = append(ratios, n.Seconds/r.Ours[i].Seconds)
	}
	return median(ratios)
}

func seconds(s sample) float64 { return s.Seconds }
func cpu(s sample) float64     { return s.CPU }
func stored(s sample) int64    { return s.Stored }

func mostMemory(samples []sample) (most int64) {
	for _, s := range samples {
		most = max(most, s.Peak)
	}
	return most
}

// medianOf is the median of one quantity of samples.
func medianOf[T int64 | float64](samples []sample, quantity func(sample) T) T {
	var values []T
	for _, s := range samples {
		values = append(values, quantity(s))
	}
	return median(values)
}

// median is the middle one of values or, of an even number, the mean of the
// two in the middle; 0 of none.
func median[T int64 | float64](values []T) T {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return values[n/2]
	}
	return (values[n/2-1] + values[n/2]) / 2
}
