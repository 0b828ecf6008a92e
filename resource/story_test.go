package resource

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/concourse/go-archive/tarfs"
	"github.com/concourse/go-archive/tgzfs"
	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/nar"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
	"github.com/nixos-closure/nixos-closure-resource/internal/pointer"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"check":              func() { os.Exit(Main(Check)) },
		"in":                 func() { os.Exit(Main(In)) },
		"out":                func() { os.Exit(Main(Out)) },
		"dumpable-after-out": dumpableAfterOut,
		"task":               task,
		"without":            without,
	})
}

// dumpableAfterOut runs a put of nothing and prints whether its process could be
// looked at by others.
func dumpableAfterOut() {
	Out(context.Background(), Step{Stdin: strings.NewReader("")})
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	fmt.Println(dumpable, err)
}

// TestStories runs the scripts in testdata; its README tells what they have at
// hand.
func TestStories(t *testing.T) {
	runStories(t, "testdata", setUpStory)
}

// TestNixStories runs those that need a Nix, with each that we support.
func TestNixStories(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, nix *nixtest.Nix) { runNixStories(t, nix, "testdata/nix") })
}

// TestCurrentNixStories runs those for which Nix 2.8 won't do.
func TestCurrentNixStories(t *testing.T) {
	runNixStories(t, nixtest.Current(t), "testdata/current")
}

func runNixStories(t *testing.T, nix *nixtest.Nix, dir string) {
	sample := nixtest.Sample(t)
	runStories(t, dir, func(t testing.TB, env *testscript.Env) error {
		return errors.Join(setUpNix(t, env, nix, sample), setUpStory(t, env))
	})
}

func runStories(t *testing.T, dir string, setUp func(testing.TB, *testscript.Env) error) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Condition:           condition,
		Setup:               func(env *testscript.Env) error { return setUp(t, env) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"archive":  cmdArchive,
			"checkout": cmdCheckout,
			"gitweb":   cmdGitweb,
			"answers":  cmdAnswers,
			"damage":   cmdDamage,
			"empty":    cmdEmpty,
			"fill":     cmdFill,
			"forgets":  cmdForgets,
			"let":      cmdLet,
			"moves":    cmdMoves,
			"publish":  cmdPublish,
			"serves":   cmdServes,
			"small":    cmdSmall,
			"stalled":  cmdStalled,
			"stalls":   cmdStalls,
			"tamper":   cmdTamper,
			"unpack":   cmdUnpack,
			"verifies": cmdVerifies,
		},
	})
}

// setUpNix gives a script a Nix with an empty store, a copy of the sample as its
// sources, whose input config is a checkout, and a build of Concourse to name.
func setUpNix(t testing.TB, env *testscript.Env, nix *nixtest.Nix, sample string) error {
	for _, variable := range nix.NewStore(t).Env() {
		name, value, _ := strings.Cut(variable, "=")
		if name == "PATH" {
			bin, _, _ := strings.Cut(value, string(filepath.ListSeparator))
			ours, others, _ := strings.Cut(env.Getenv("PATH"), string(filepath.ListSeparator))
			value = strings.Join([]string{ours, bin, others}, string(filepath.ListSeparator))
		}
		env.Setenv(name, value)
	}
	env.Setenv("BUILD_URL", "https://ci.example.org/builds/1234")
	sources := filepath.Join(env.WorkDir, "sources")
	return errors.Join(
		os.CopyFS(sources, os.DirFS(sample)),
		os.Mkdir(filepath.Join(sources, "config", ".git"), 0o755),
		os.WriteFile(filepath.Join(sources, "config", ".git", "HEAD"), []byte("0123456789012345678901234567890123456789\n"), 0o644),
	)
}

// setUpStory gives a script two keys and two store paths, and replaces
// variables in its files.
func setUpStory(t testing.TB, env *testscript.Env) error {
	for _, name := range []string{"OURS", "STRANGER"} {
		key := nixtest.NewKey(t, strings.ToLower(name)+"-1")
		env.Setenv(name+"_SECRET", key.Secret)
		env.Setenv(name+"_PUBLIC", key.Public)
	}
	programs, _, _ := strings.Cut(env.Getenv("PATH"), string(filepath.ListSeparator))
	env.Setenv("PROGRAMS", programs)
	env.Setenv("LONG", strings.Repeat("m", pointer.MaxMessage+1))
	env.Values[stalledKey] = make(chan struct{})
	env.Setenv("HELLO", hello)
	env.Setenv("WORLD", world)
	return expandAll(env.WorkDir, env.Getenv)
}

// expandAll replaces variables in the files of a directory. Those that have no
// value yet are left for later.
func expandAll(dir string, getenv func(string) string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if !file.Type().IsRegular() {
			continue
		}
		name := filepath.Join(dir, file.Name())
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		expanded := os.Expand(string(data), func(variable string) string { return cmp.Or(getenv(variable), "$"+variable) })
		if err := os.WriteFile(name, []byte(expanded), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cmdMoves gives a pointer of $WORK/cache a generation for each path, as
// another put would, signed by a key or by none:
//
//	moves [-expired|-replaced] POINTER OURS|STRANGER|NOBODY PATH…
func cmdMoves(ts *testscript.TestScript, neg bool, args []string) {
	config := pointer.Config{RequireSigs: false} // it doesn't mind what is there
	option := ""
	if strings.HasPrefix(args[0], "-") {
		option, args = args[0], args[1:]
	}
	if option == "-expired" {
		config.ExpiresAfter = time.Hour
		config.Now = func() time.Time { return time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC) }
	}
	config.Name = pointer.Name(args[0])
	if args[1] != "NOBODY" {
		secret, err := nix.ParseSecretKey(ts.Getenv(args[1] + "_SECRET"))
		ts.Check(err)
		config.SigningKeys = []nix.SecretKey{secret}
	}
	store := blob.NewDirectory(ts.MkAbs("cache"))
	target := pointer.New(store, config)
	for _, arg := range args[2:] {
		path, err := nix.ParseStorePath(arg)
		ts.Check(err)
		proposal := pointer.Proposal{Path: path, System: "x86_64-linux", NarHash: nix.Hash{1}}
		if closure, err := cache.New(store, cache.Config{}).Closure(context.Background(), path); err == nil && option != "-replaced" {
			proposal.NarHash = closure.RootInfo().NarHash
		}
		_, err = target.Append(context.Background(), proposal)
		ts.Check(err)
	}
}

// cmdPublish puts the closure of $WORLD, which refers to $HELLO, into $WORK/cache
// and moves a pointer to it, as a put of OURS would.
//
//	publish POINTER
func cmdPublish(ts *testscript.TestScript, neg bool, args []string) {
	ctx := context.Background()
	secret, err := nix.ParseSecretKey(ts.Getenv("OURS_SECRET"))
	ts.Check(err)
	store := blob.NewDirectory(ts.MkAbs("cache"))
	files := greetings(ts.MkAbs("greetings"))
	infos, err := files.closure()
	ts.Check(err)
	root := infos[len(infos)-1].Path
	to := cache.New(store, cache.Config{RequireSigs: true, SigningKeys: []nix.SecretKey{secret}})
	pushed, err := to.Push(ctx, cache.PushRequest{Root: root, Infos: infos, Source: files})
	ts.Check(err)
	_, err = pointer.New(store, pointer.Config{
		Name: pointer.Name(args[0]), RequireSigs: true, SigningKeys: []nix.SecretKey{secret}, PublicKeys: nix.Keys{secret.Public()},
	}).Append(ctx, pointer.Proposal{
		Path: root, System: "x86_64-linux", NarHash: pushed.Closure.RootInfo().NarHash,
		Details: pointer.Details{Sizes: pointer.Sizes{Paths: len(infos), NarSize: pushed.Closure.NarSize()}},
	})
	ts.Check(err)
	ts.Check(pushed.Release(ctx))
}

// greetings are a directory of files by the names of $HELLO and $WORLD.
type greetings string

// closure makes them.
func (dir greetings) closure() ([]nix.PathInfo, error) {
	var infos []nix.PathInfo
	var references []nix.StorePath
	for _, text := range []string{hello, world} {
		path, err := nix.ParseStorePath(text)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(string(dir), path.Base(), "bin", "greet")
		err = errors.Join(
			os.MkdirAll(filepath.Dir(file), 0o755),
			os.WriteFile(file, []byte("#!/bin/sh\necho "+path.Name()+"\n"), 0o755),
		)
		if err != nil {
			return nil, err
		}
		var archive bytes.Buffer
		if err := nar.Dump(&archive, filepath.Join(string(dir), path.Base())); err != nil {
			return nil, err
		}
		infos = append(infos, nix.PathInfo{
			Path: path, NarHash: sha256.Sum256(archive.Bytes()), NarSize: int64(archive.Len()), References: references,
		})
		references = []nix.StorePath{path}
	}
	return infos, nil
}

func (dir greetings) DumpNAR(_ context.Context, path nix.StorePath, w io.Writer) error {
	return nar.Dump(w, filepath.Join(string(dir), path.Base()))
}

// cmdStalls serves $WORK/cache at $SERVER, but never gets to the end of a NAR.
//
//	stalls
func cmdStalls(ts *testscript.TestScript, neg bool, args []string) {
	stalled := ts.Value(stalledKey).(chan struct{})
	var once sync.Once
	files := http.FileServer(http.Dir(ts.MkAbs("cache")))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			once.Do(func() { close(stalled) })
			<-r.Context().Done()
			return
		}
		files.ServeHTTP(w, r)
	}))
	ts.Defer(server.Close)
	ts.Setenv("SERVER", server.URL)
	ts.Check(expandAll(ts.MkAbs("."), ts.Getenv))
}

// cmdStalled waits until somebody waits for a NAR.
//
//	stalled
func cmdStalled(ts *testscript.TestScript, neg bool, args []string) {
	<-ts.Value(stalledKey).(chan struct{})
}

// stalledKey is the value of a script that is closed when it has stalled.
const stalledKey = "stalled"

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

// cmdArchive makes a gzipped tar with an empty file under each of the names,
// whatever they are.
//
//	archive FILE NAME…
func cmdArchive(ts *testscript.TestScript, neg bool, args []string) {
	file, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	compressed := gzip.NewWriter(file)
	w := tar.NewWriter(compressed)
	for _, name := range args[1:] {
		ts.Check(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}))
	}
	ts.Check(errors.Join(w.Close(), compressed.Close(), file.Close()))
}

// cmdDamage changes the last byte of each file in a directory.
//
//	damage DIRECTORY
func cmdDamage(ts *testscript.TestScript, neg bool, args []string) {
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*"))
	ts.Check(err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		ts.Check(err)
		data[len(data)-1] ^= 1
		ts.Check(os.WriteFile(file, data, 0o644))
	}
}

// cmdEmpty says whether a directory is empty.
//
//	empty DIRECTORY
func cmdEmpty(ts *testscript.TestScript, neg bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	if (len(entries) == 0) == neg {
		ts.Fatalf("it has %v", entries)
	}
}

// cmdUnpack unpacks an archive into a new directory, as Concourse itself does.
//
//	unpack ARCHIVE DIRECTORY
func cmdUnpack(ts *testscript.TestScript, neg bool, args []string) {
	file, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer file.Close()
	dir := ts.MkAbs(args[1])
	ts.Check(os.Mkdir(dir, 0o755))
	if strings.HasSuffix(args[0], ".gz") {
		ts.Check(tgzfs.Extract(file, dir))
		return
	}
	plain, err := zstd.NewReader(file)
	ts.Check(err)
	defer plain.Close()
	ts.Check(tarfs.Extract(plain, dir))
}

// cmdCheckout makes a directory a git checkout with all of its files committed,
// which belongs to another user if we are root.
//
//	checkout DIRECTORY
func cmdCheckout(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.RemoveAll(filepath.Join(dir, ".git")))
	git := []string{"git", "-C", dir, "-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "safe.directory=*"}
	for _, command := range [][]string{{"init", "--quiet"}, {"add", "."}, {"commit", "--quiet", "--message", "x"}} {
		ts.Check(ts.Exec(git[0], append(git[1:], command...)...))
	}
	if os.Geteuid() == 0 {
		ts.Check(ts.Exec("chown", "-R", "4711", dir))
	}
}

// cmdGitweb serves the repository of a checkout at $GIT, and makes $COMMIT the
// commit that it is at.
//
//	gitweb DIRECTORY
func cmdGitweb(ts *testscript.TestScript, neg bool, args []string) {
	git := []string{"-c", "safe.directory=*", "-C", ts.MkAbs(args[0])}
	ts.Check(ts.Exec("git", append(git, "update-server-info")...))
	commit, err := exec.Command("git", append(git, "rev-parse", "HEAD")...).Output()
	ts.Check(err)
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(ts.MkAbs(args[0]), ".git"))))
	ts.Defer(server.Close)
	ts.Setenv("GIT", server.URL)
	ts.Setenv("COMMIT", strings.TrimSpace(string(commit)))
	ts.Check(expandAll(ts.MkAbs("."), ts.Getenv))
}

// cmdSmall makes a directory that has room for so many bytes.
//
//	small DIRECTORY BYTES
func cmdSmall(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.Mkdir(dir, 0o755))
	ts.Check(unix.Mount("none", dir, "tmpfs", 0, "size="+args[1]))
	ts.Defer(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// cmdFill makes a file of so many bytes.
//
//	fill FILE BYTES
func cmdFill(ts *testscript.TestScript, neg bool, args []string) {
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat(" ", size)), 0o644))
}

// cmdLet sets a variable to what a file holds, also in the script's files.
//
//	let NAME FILE
func cmdLet(ts *testscript.TestScript, neg bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
	ts.Check(expandAll(ts.MkAbs("."), ts.Getenv))
}

// cmdVerifies says whether a file holds a generation of a pointer, signed by a
// key.
//
//	verifies FILE POINTER OURS|STRANGER
func cmdVerifies(ts *testscript.TestScript, neg bool, args []string) {
	key, err := nix.ParsePublicKey(ts.Getenv(args[2] + "_PUBLIC"))
	ts.Check(err)
	var g pointer.Generation
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &g))
	if verified := g.Verify(pointer.Name(args[1]), nix.Keys{key}); verified == neg {
		ts.Fatalf("verified: %v", verified)
	}
}
