package blob_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/blobtest"
)

// The test binary is its own second process: with a role in its environment it
// plays that, with its arguments, instead of testing.
const roleVariable = "BLOB_TEST_ROLE"

var roles = map[string]func(args []string) error{
	"increment": increment,
	"write":     writeWithoutEnd,
	"read":      read,
}

func TestMain(m *testing.M) {
	role, ok := roles[os.Getenv(roleVariable)]
	if !ok {
		os.Exit(m.Run())
	}
	if err := role(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func process(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// increment adds to the number at "counter" in a directory, so many times.
func increment(args []string) error {
	times, err := strconv.Atoi(args[1])
	for range times {
		if err == nil {
			err = blobtest.Increment(context.Background(), blob.NewDirectory(args[0]), "counter")
		}
	}
	return err
}

// writeWithoutEnd writes objects, each one byte's repetition, to a directory,
// saying so in the middle of each, and increments "counter" in between.
func writeWithoutEnd(args []string) error {
	store := blob.NewDirectory(args[0])
	for i := 0; ; i++ {
		data := bytes.Repeat([]byte{'a' + byte(i%26)}, 1<<20)
		body := io.MultiReader(bytes.NewReader(data), announcement{}, bytes.NewReader(data))
		if _, err := store.Put(context.Background(), fmt.Sprintf("dir/%d", i%3), body, blob.PutOptions{}); err != nil {
			return err
		}
		if err := blobtest.Increment(context.Background(), store, "counter"); err != nil {
			return err
		}
	}
}

// An announcement is an empty part of a body, which says that it was reached.
type announcement struct{}

func (announcement) Read([]byte) (int, error) {
	fmt.Println("writing")
	return 0, io.EOF
}

// read prints an object of the store at a URL.
func read(args []string) error {
	u, err := url.Parse(args[0])
	if err != nil {
		return err
	}
	store, err := blob.Open(context.Background(), u, blob.Config{Patience: quick})
	if err != nil {
		return err
	}
	data, _, err := blob.ReadAll(context.Background(), store, args[1], 1<<20, blob.GetOptions{})
	os.Stdout.Write(data)
	return err
}
