package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

// maxMemory is what a check may take, in KiB: it runs once a minute for every
// pointer, next to all others of a worker.
const maxMemory = 40 << 10

// The program, as it is shipped, with the largest pointer there can be.
func TestMemory(t *testing.T) {
	program := filepath.Join(t.TempDir(), "check")
	if err := nixtest.BuildPrograms(program, "", "."); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key := nixtest.NewKey(t, "ours-1")
	writeLargestPointer(t, dir, key)

	// check blocks while it answers: its answer doesn't fit into the pipe. By
	// then it has done all else, so its peak is known while it is alive.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"source": {"cache": "file://%s", "pointer": "web-1", "trusted_public_keys": %q}, "version": {"generation": "1"}}`, dir, key.Public))
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatalf("check has not answered: %v", err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	rest.ReadFrom(r)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if rest.Len() < 4096 {
		t.Fatalf("the answer fits into the pipe: it has %d bytes", rest.Len())
	}

	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if peak == nil {
		t.Fatalf("no peak in\n%s", status)
	}
	got, _ := strconv.Atoi(string(peak[1]))
	t.Logf("check took %d KiB", got)
	if got > maxMemory {
		t.Errorf("check took %d KiB, and may take %d", got, maxMemory)
	}
}

// writeLargestPointer makes a pointer web-1 of as many generations and bytes as
// its readers take.
func writeLargestPointer(t *testing.T, dir string, key nixtest.Key) {
	t.Helper()
	secret, err := nix.ParseSecretKey(key.Secret)
	if err != nil {
		t.Fatal(err)
	}
	store := blob.NewMemory()
	target := pointer.New(store, pointer.Config{Name: "web-1", RequireSigs: true, PublicKeys: nix.Keys{secret.Public()}, SigningKeys: []nix.SecretKey{secret}})
	for i := range pointer.Keep {
		path, err := nix.ParseBaseName(fmt.Sprintf("00bgd045z0d4icpbc2yyz4gx48ak44la-nixos-system-web-1-25.05.%d", i))
		if err != nil {
			t.Fatal(err)
		}
		_, err = target.Append(context.Background(), pointer.Proposal{
			Path: path, System: "x86_64-linux", NarHash: nix.Hash{1},
			Details: pointer.Details{Message: strings.Repeat("m", pointer.MaxMessage)},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	const name = "pointers/web-1.json"
	data, _, err := blob.ReadAll(context.Background(), store, name, pointer.MaxObject, blob.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, bytes.Repeat([]byte{' '}, pointer.MaxObject-len(data))...)
	if err := os.Mkdir(filepath.Join(dir, "pointers"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}
