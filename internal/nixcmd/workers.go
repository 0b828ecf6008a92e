package nixcmd

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// evaluationMemory is what one evaluation of a NixOS system is expected to take,
// in bytes. Most take half of it.
const evaluationMemory = 2 << 30

// Workers is how many evaluations this machine can do side by side: one for each
// core, as far as there is memory for them, and one at least.
func Workers() int {
	return workers(runtime.GOMAXPROCS(0), availableMemory("/"))
}

func workers(cores int, memory int64) int {
	return max(1, int(min(int64(cores), memory/evaluationMemory)))
}

// availableMemory is how much memory may be used, in bytes, by what the kernel
// says below root: what the machine has left or, if that is less, what this
// container is given. If the kernel doesn't say, it is 0.
func availableMemory(root string) int64 {
	available := field(filepath.Join(root, "proc/meminfo"), "MemAvailable:") << 10
	for _, limit := range []string{"memory.max", "memory/memory.limit_in_bytes"} { // of cgroups, version 2 and 1
		if n := field(filepath.Join(root, "sys/fs/cgroup", limit), ""); n > 0 {
			available = min(available, n)
		}
	}
	return available
}

// field reads the number that follows a label in a file; 0 if there is none.
func field(file, label string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), label)
	words := strings.Fields(rest)
	if len(words) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(words[0], 10, 64) // "max" is no number
	return n
}
