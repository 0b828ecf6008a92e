package nixcmd

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAvailableMemory(t *testing.T) {
	const meminfo = "MemTotal:       24683612 kB\nMemFree:          123456 kB\nMemAvailable:   16777216 kB\n"
	for _, test := range []struct {
		name    string
		files   map[string]string
		want    int64
		workers int // of 8 cores
	}{
		{"a machine", map[string]string{"proc/meminfo": meminfo}, 16 << 30, 8},
		{"a container", map[string]string{
			"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": "5368709120\n",
		}, 5 << 30, 2},
		{"a container without a limit", map[string]string{
			"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": "max\n",
		}, 16 << 30, 8},
		{"an older kernel's container", map[string]string{
			"proc/meminfo": meminfo, "sys/fs/cgroup/memory/memory.limit_in_bytes": "1073741824\n",
		}, 1 << 30, 1},
		{"a kernel that says nothing", nil, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			for name, content := range test.files {
				file := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			got := availableMemory(root)
			if got != test.want {
				t.Errorf("got %d bytes, want %d", got, test.want)
			}
			if n := workers(8, got); n != test.workers {
				t.Errorf("got %d workers, want %d", n, test.workers)
			}
		})
	}
	if availableMemory("/") <= 0 {
		t.Error("this machine's kernel doesn't say how much memory is left")
	}
}
