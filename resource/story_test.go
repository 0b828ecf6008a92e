package resource

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"check": func() { os.Exit(Main(Check)) },
	})
}

// TestStories runs the scripts in testdata; its README tells what they have at
// hand.
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup:               func(env *testscript.Env) error { return setUpStory(t, env) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"moves":  cmdMoves,
			"tamper": cmdTamper,
			"fill":   cmdFill,
		},
	})
}

// setUpStory gives a script two keys and two store paths, and replaces
// variables in its JSON files.
func setUpStory(t *testing.T, env *testscript.Env) error {
	for _, name := range []string{"OURS", "STRANGER"} {
		key := nixtest.NewKey(t, strings.ToLower(name)+"-1")
		env.Setenv(name+"_SECRET", key.Secret)
		env.Setenv(name+"_PUBLIC", key.Public)
	}
	env.Setenv("HELLO", hello)
	env.Setenv("WORLD", world)
	files, err := filepath.Glob(filepath.Join(env.WorkDir, "*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(os.Expand(string(data), env.Getenv)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cmdMoves gives a pointer of $WORK/cache a generation for each path, as
// another put would, signed by a key or by none:
//
//	moves [-expired] POINTER OURS|STRANGER|NOBODY PATH…
func cmdMoves(ts *testscript.TestScript, neg bool, args []string) {
	config := pointer.Config{RequireSigs: false} // it doesn't mind what is there
	if args[0] == "-expired" {
		args = args[1:]
		config.ExpiresAfter = time.Hour
		config.Now = func() time.Time { return time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC) }
	}
	config.Name = pointer.Name(args[0])
	if args[1] != "NOBODY" {
		secret, err := nix.ParseSecretKey(ts.Getenv(args[1] + "_SECRET"))
		ts.Check(err)
		config.SigningKeys = []nix.SecretKey{secret}
	}
	target := pointer.New(blob.NewDirectory(ts.MkAbs("cache")), config)
	for _, arg := range args[2:] {
		path, err := nix.ParseStorePath(arg)
		ts.Check(err)
		_, err = target.Append(context.Background(), pointer.Proposal{Path: path, System: "x86_64-linux", NarHash: nix.Hash{1}})
		ts.Check(err)
	}
}

// cmdTamper changes a field of a pointer's object, or of one of its entries
// (0 is the newest), and nothing else: the signatures stay.
//
//	tamper POINTER [ENTRY] FIELD VALUE
func cmdTamper(ts *testscript.TestScript, neg bool, args []string) {
	file := ts.MkAbs("cache/pointers/" + args[0] + ".json")
	document := map[string]any{}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &document))
	object := document
	if len(args) == 4 {
		entry, err := strconv.Atoi(args[1])
		ts.Check(err)
		object = document["generations"].([]any)[entry].(map[string]any)
	}
	var value any = args[len(args)-1]
	if n, err := strconv.Atoi(args[len(args)-1]); err == nil {
		value = n
	}
	object[args[len(args)-2]] = value
	data, err := json.Marshal(document)
	ts.Check(err)
	ts.Check(os.WriteFile(file, data, 0o644))
}

// cmdFill makes a file of so many bytes.
//
//	fill FILE BYTES
func cmdFill(ts *testscript.TestScript, neg bool, args []string) {
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat(" ", size)), 0o644))
}
