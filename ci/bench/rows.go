package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A row is one thing that both do, ours and Nix.
type row struct {
	name  string // to ask for it by
	work  string // what it is, for readers
	where string // versitygw, minio or directory

	rounds    int                                    // 0: as many as are asked for
	long      bool                                   // only if it is asked for
	ours, nix contestant                             // nix may be nil
	limit     func(context.Context) (float64, error) // what nobody can beat, in seconds; may be nil
	goals     []goal
}

// A contestant does a row's work once. Rounds count from 0.
type contestant func(ctx context.Context, round int) (sample, error)

// far is the round trip to a server that isn't next to us.
const far = 20 * time.Millisecond

// zstd is what Nix is asked to compress with. By itself it takes xz.
const zstd = "compression=zstd"

// rows are all rows, in the order of the report.
func (l *lab) rows() []row {
	system := func(ctx context.Context) (closure, error) { return l.system(ctx, "", 0) }
	warm := l.fill(system, true)
	push := func(name, work, where string, delay time.Duration, ours, nix string, goals ...goal) row {
		return row{
			name: name, work: work, where: where, goals: goals, limit: l.tarZstd,
			ours: l.cold(system, where, delay, l.ourPush, ours),
			nix:  l.cold(system, where, delay, l.nixPush, nix),
		}
	}
	xz := push("push-xz", "push into an empty directory, Nix as it comes (xz)", directory, 0, zstd, "", faster(40))
	xz.rounds = 1
	rows := []row{
		push("push", "push into an empty cache", versitygw, 0, zstd, zstd, faster(1.5), notLarger(3)),
		push("push-level-1", "push into an empty cache, ours at level 1", versitygw, 0, zstd+"&compression-level=1", zstd),
		push("push-minio", "push into an empty cache", minio, 0, zstd, zstd, faster(1.5), notLarger(3)),
		push("push-far", "push into an empty cache, 20 ms", versitygw, far, zstd, zstd, faster(3)),
		push("push-directory", "push into an empty directory", directory, 0, zstd, zstd, faster(1), notLarger(3)),
		xz,
		{
			name: "again", work: "push again, nothing new, 20 ms", where: versitygw,
			ours: warm.ourPush(""), nix: warm.nixPush(""), limit: warm.roundTrip,
			goals: []goal{faster(3), requests(4)},
		},
		{
			name: "push-nginx", work: "push after nginx changed (2 paths), 20 ms", where: versitygw,
			ours: warm.ourPush("nginx"), nix: warm.nixPush("nginx"),
			goals: []goal{faster(2), requests(12 + 3*2)},
		},
		{
			name: "push-libssl", work: "push after libssl changed (79 paths, 377 MB), 20 ms", where: versitygw,
			ours: warm.ourPush("libssl3"), nix: warm.nixPush("libssl3"),
			goals: []goal{faster(1.8)},
		},
		{
			name: "fetch", work: "fetch into an empty store", where: versitygw,
			ours: warm.ourFetch((*site).near, "rootfs", l.scratch), nix: warm.nixFetch((*site).near), limit: l.zstdD,
			goals: []goal{faster(1.5)},
		},
		{
			name: "fetch-far", work: "fetch into an empty store, 20 ms", where: versitygw,
			ours: warm.ourFetch(itself, "rootfs", l.scratch), nix: warm.nixFetch(itself), limit: l.zstdD,
			goals: []goal{faster(5), requests(380)},
		},
		{
			name: "find", work: "find that all is there already, 20 ms", where: versitygw,
			ours: warm.ourFetch(itself, "none", l.scratch), nix: warm.nixFind, limit: warm.roundTrip,
			goals: []goal{faster(40)},
		},
		{
			name: "check", work: "`check`, 20 ms", where: versitygw, rounds: 10,
			ours: warm.check, limit: warm.roundTrip,
			goals: []goal{withinLimits(2), requests(1)},
		},
	}
	return slices.Concat(rows, l.growthRows(373, 5000), l.memoryRows())
}

func itself(s *site) *site { return s }

// growthRows are for closures of a few and of many paths, all of them tiny: what
// takes a request for each path shows.
func (l *lab) growthRows(few, many int) []row {
	var rows []row
	for _, paths := range []int{few, many} {
		tiny := l.made(synthetic{name: fmt.Sprintf("tiny-%d", paths), sizes: slices.Repeat([]int64{1000}, paths)})
		warm := l.fill(tiny, false)
		push := row{
			name: fmt.Sprintf("push-%d", paths), work: fmt.Sprintf("push %d tiny paths, 20 ms", paths), where: versitygw, rounds: 1,
			ours: l.cold(tiny, versitygw, far, l.ourPush, zstd),
		}
		if paths == few {
			push.nix = l.cold(tiny, versitygw, far, l.nixPush, zstd) // of many, it takes minutes
		} else {
			push.goals = []goal{linearIn(fmt.Sprintf("push-%d", few), float64(paths)/float64(few))}
		}
		rows = append(rows, push, row{
			name: fmt.Sprintf("again-%d", paths), work: fmt.Sprintf("push %d again, nothing new, 20 ms", paths), where: versitygw,
			ours: warm.ourPush(""), limit: warm.roundTrip, goals: []goal{requests(4)},
		}, row{
			name: fmt.Sprintf("check-%d", paths), work: fmt.Sprintf("`check` of %d, 20 ms", paths), where: versitygw,
			ours: warm.check, limit: warm.roundTrip, goals: []goal{requests(1)},
		}, row{
			name: fmt.Sprintf("fetch-%d", paths), work: fmt.Sprintf("fetch %d tiny paths, 20 ms", paths), where: versitygw,
			ours: warm.ourFetch(itself, "rootfs", l.scratch), goals: []goal{requests(paths + 7)},
		})
	}
	return rows
}

// memoryRows are for closures so large that whatever grows with them shows.
func (l *lab) memoryRows() []row {
	const gb = 1_000_000_000
	var rows []row
	for _, huge := range []struct {
		what string
		synthetic
	}{
		{"one NAR of 5 GB", synthetic{name: "nar-5gb", sizes: []int64{5 * gb}}},
		{"a closure of 20 GB", synthetic{name: "closure-20gb", sizes: slices.Repeat([]int64{gb / 10}, 200)}},
	} {
		made := l.made(huge.synthetic)
		rows = append(rows, row{
			name: "push-" + huge.name, work: "push " + huge.what, where: versitygw, rounds: 1, long: true,
			ours: l.cold(made, versitygw, 0, l.ourPush, zstd), goals: []goal{memory(256)},
		}, row{
			name: "fetch-" + huge.name, work: "fetch " + huge.what, where: versitygw, rounds: 1, long: true,
			ours: l.fill(made, false).ourFetch((*site).near, "rootfs", l.cache), goals: []goal{memory(256)}, // to disk: it may be larger than memory
		})
	}
	return rows
}
