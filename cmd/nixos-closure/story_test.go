package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nixos-closure": main})
}

// TestStories runs the scripts in testdata; its README tells what they have at
// hand.
func TestStories(t *testing.T) {
	runStories(t, "testdata", setUp)
}

// TestNixStories runs those that need a Nix, with each that we support.
func TestNixStories(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, nix *nixtest.Nix) {
		sample := nixtest.Sample(t)
		runStories(t, "testdata/nix", func(t testing.TB, env *testscript.Env) error {
			for _, variable := range nix.NewStore(t).Env() {
				name, value, _ := strings.Cut(variable, "=")
				if name == "PATH" {
					value = env.Getenv("PATH") + string(filepath.ListSeparator) + value
				}
				env.Setenv(name, value)
			}
			return errors.Join(os.CopyFS(filepath.Join(env.WorkDir, "sources"), os.DirFS(sample)), setUp(t, env))
		})
	})
}

func runStories(t *testing.T, dir string, setUp func(testing.TB, *testscript.Env) error) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Setup:               func(env *testscript.Env) error { return setUp(t, env) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"build":  cmdBuild,
			"damage": cmdDamage,
			"expand": cmdExpand,
			"repair": cmdRepair,
			"status": cmdStatus,
		},
	})
}

// setUp gives a script two keys, and a source in the environment.
func setUp(t testing.TB, env *testscript.Env) error {
	for _, name := range []string{"OURS", "STRANGER"} {
		key := nixtest.NewKey(t, strings.ToLower(name)+"-1")
		env.Setenv(name+"_SECRET", key.Secret)
		env.Setenv(name+"_PUBLIC", key.Public)
	}
	env.Setenv("LONG", strings.Repeat("m", pointer.MaxMessage+1))
	env.Setenv("NIXOS_CLOSURE_CACHE", "file://"+filepath.Join(env.WorkDir, "cache"))
	env.Setenv("NIXOS_CLOSURE_POINTER", "web-1")
	env.Setenv("NIXOS_CLOSURE_SIGNING_KEY", env.Getenv("OURS_SECRET"))
	return nil
}

// cmdBuild leaves a closure as a task could, as a binary cache without
// signatures: a root that refers to the other paths. Each path has a file of some
// kilobytes. The variables $NAME and $NAME_hash, with _ for . and -, are the path
// and its hash.
//
//	build [-other] DIR ROOT [NAME…]
func cmdBuild(ts *testscript.TestScript, neg bool, args []string) {
	lines := 2000
	if args[0] == "-other" { // bytes under the same names
		lines, args = 1000, args[1:]
	}
	files := make(memory)
	var infos []nix.PathInfo
	var references []nix.StorePath
	names := append(args[2:], args[1]) // references first
	for i, name := range names {
		path := storePath(ts, name)
		variable := strings.NewReplacer(".", "_", "-", "_").Replace(name)
		ts.Setenv(variable, path.String())
		ts.Setenv(variable+"_hash", path.HashPart())
		dir := ts.MkAbs(filepath.Join("built", path.Base()))
		ts.Check(os.MkdirAll(dir, 0o755))
		ts.Check(os.WriteFile(filepath.Join(dir, "file"), []byte(strings.Repeat(name+"\n", lines)), 0o644))
		var archive bytes.Buffer
		ts.Check(nar.Dump(&archive, dir))
		info := nix.PathInfo{Path: path, NarHash: sha256.Sum256(archive.Bytes()), NarSize: int64(archive.Len())}
		if i == len(names)-1 {
			info.References = nix.SortPaths(references)
		}
		files[path] = archive.Bytes()
		infos = append(infos, info)
		references = append(references, path)
	}
	_, err := cache.New(blob.NewDirectory(ts.MkAbs(args[0])), cache.Config{}).Push(context.Background(), cache.PushRequest{
		Root: infos[len(infos)-1].Path, Infos: infos, Source: files,
	})
	ts.Check(err)
}

// storePath is one of that name, the same each time.
func storePath(ts *testscript.TestScript, name string) nix.StorePath {
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	hash := sha256.Sum256([]byte(name))
	var text strings.Builder
	for _, b := range hash {
		text.WriteByte(alphabet[b%32])
	}
	path, err := nix.ParseStorePath(nix.StoreDir + "/" + text.String() + "-" + name)
	ts.Check(err)
	return path
}

// memory holds the NARs of paths.
type memory map[nix.StorePath][]byte

func (m memory) DumpNAR(_ context.Context, path nix.StorePath, w io.Writer) error {
	_, err := w.Write(m[path])
	return err
}

// cmdDamage changes the last byte of the file of a path in $WORK/cache, cuts that
// off, or removes the file.
//
//	damage [-short|-gone] PATH
func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	path, err := nix.ParseStorePath(args[len(args)-1])
	ts.Check(err)
	ni, err := cache.ParseNarInfo(ts.ReadFile(filepath.Join("cache", path.HashPart()+".narinfo")))
	ts.Check(err)
	file := ts.MkAbs(filepath.Join("cache", ni.URL))
	data, err := os.ReadFile(file)
	ts.Check(err)
	last := len(data) - 1
	switch args[0] {
	case "-gone":
		ts.Check(os.Remove(file))
	case "-short":
		ts.Check(os.WriteFile(file, data[:last], 0o644))
	default:
		data[last] ^= 1
		ts.Check(os.WriteFile(file, data, 0o644))
	}
}

// cmdRepair deletes from $WORK/cache what the JSON of verify says is to be
// deleted.
//
//	repair FILE
func cmdRepair(ts *testscript.TestScript, neg bool, args []string) {
	var reports []struct{ Delete []string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &reports))
	for _, r := range reports {
		for _, key := range r.Delete {
			if err := os.Remove(ts.MkAbs(filepath.Join("cache", key))); !errors.Is(err, fs.ErrNotExist) {
				ts.Check(err)
			}
		}
	}
}

// cmdStatus runs a program, which must exit with that status.
//
//	status STATUS PROGRAM [ARGUMENT…]
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%v, want exit status %s", err, args[0])
	}
}

// cmdExpand replaces variables in a file.
//
//	expand FILE
func cmdExpand(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o644))
}
