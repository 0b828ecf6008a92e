package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// The sizes of the plot, in pixels.
const (
	plotLeft   = 360 // of the axis: labels
	plotAxis   = 500
	plotRight  = 70 // of the axis: how many times faster
	plotTop    = 60
	plotRow    = 26
	plotBottom = 14
)

const plotStyle = `text { fill: #333 } .end { text-anchor: end } .mid { text-anchor: middle } .grid { stroke: #ddd }
.ours { fill: #2b6cb0 } .nix { fill: #8a97a6 } .between { stroke: #b9c3cf; stroke-width: 2 } .limit { stroke: #c53030; stroke-width: 2 }`

// plot draws the time of each row that both have run, on a logarithmic axis: a
// dot for each run of ours and of Nix's, and a line between their medians; a
// tick at the limit, if there is one.
func plot(rows []row, all results) []byte {
	var drawn []row
	least, most := math.Inf(1), 0.0
	for _, r := range rows {
		got := all[r.name]
		if len(got.Nix) == 0 {
			continue
		}
		drawn = append(drawn, r)
		for _, t := range times(got) {
			least, most = min(least, t), max(most, t)
		}
	}
	from, to := math.Floor(math.Log10(least)), math.Ceil(math.Log10(most))
	x := func(t float64) float64 { return plotLeft + plotAxis*(math.Log10(t)-from)/(to-from) }
	bottom := plotTop + plotRow*len(drawn)

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotLeft+plotAxis+plotRight, bottom+plotBottom)
	fmt.Fprintf(&b, "<style>%s</style>\n"+`<rect width="100%%" height="100%%" fill="white"/>`+"\n", plotStyle)
	dot := func(class string, x float64, y int) {
		fmt.Fprintf(&b, `<circle class="%s" cx="%.1f" cy="%d" r="4" fill-opacity="0.7"/>`+"\n", class, x, y)
	}
	line := func(class string, x1, x2 float64, y1, y2 int) {
		fmt.Fprintf(&b, `<line class="%s" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`+"\n", class, x1, x2, y1, y2)
	}
	text := func(class string, x float64, y int, text string) {
		fmt.Fprintf(&b, `<text class="%s" x="%.1f" y="%d">%s</text>`+"\n", class, x, y, html.EscapeString(text))
	}

	dot("ours", plotLeft, 16)
	text("", plotLeft+10, 20, "nixos-closure")
	dot("nix", plotLeft+130, 16)
	text("", plotLeft+140, 20, "nix copy")
	line("limit", plotLeft+230, plotLeft+230, 10, 22)
	text("", plotLeft+240, 20, "limit")
	for decade := from; decade <= to; decade++ {
		at := x(math.Pow(10, decade))
		line("grid", at, at, plotTop-10, bottom)
		text("mid", at, plotTop-16, fmt.Sprintf("%g s", math.Pow(10, decade)))
	}
	for i, r := range drawn {
		got, y := all[r.name], plotTop+plotRow*i+plotRow/2
		text("end", plotLeft-14, y+4, label(r))
		line("between", x(medianOf(got.Ours, seconds)), x(medianOf(got.Nix, seconds)), y, y)
		if got.Limit > 0 {
			line("limit", x(got.Limit), x(got.Limit), y-7, y+7)
		}
		for _, s := range got.Nix {
			dot("nix", x(s.Seconds), y)
		}
		for _, s := range got.Ours {
			dot("ours", x(s.Seconds), y)
		}
		text("end", plotLeft+plotAxis+plotRight-10, y+4, ratio(got))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// times are all times of a result, in seconds.
func times(r result) []float64 {
	var all []float64
	for _, samples := range [][]sample{r.Ours, r.Nix} {
		for _, s := range samples {
			all = append(all, s.Seconds)
		}
	}
	if r.Limit > 0 {
		all = append(all, r.Limit)
	}
	return all
}

func label(r row) string {
	if r.where == minio {
		return r.work + " (" + r.where + ")"
	}
	return r.work
}
