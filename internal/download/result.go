package download

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/cache"
	"github.com/nixos-closure/nixos-closure-resource/internal/console"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/store"
)

// resultName is what the files of the path itself are called in a destination:
// a directory, a file or a symlink, as the path is.
const resultName = "result"

// rootAlone is the closure's root without what it refers to. It is no closure,
// but can be fetched like one.
func rootAlone(closure *cache.Closure) *cache.Closure {
	return &cache.Closure{Root: closure.Root, Paths: closure.Paths[len(closure.Paths)-1:]}
}

// fetchResult leaves the files of the closure's root in the destination, under
// their name once they are verified.
func (r *Request) fetchResult(ctx context.Context, closure *cache.Closure, meter *cache.Meter, dest destination) error {
	if err := r.Site.Cache.Fetch(ctx, rootAlone(closure), store.Tree{Dir: dest.dir, Name: unfinished(resultName)}, meter); err != nil {
		return err
	}
	if err := dest.finish(resultName); err != nil {
		return err
	}
	dangling, example, err := dest.dangling(resultName)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(closure.RootInfo().References), func(p nix.StorePath) bool { return p == closure.Root })
	if n := len(others); n > 0 {
		r.Console.Say("%s is the path alone: what it refers to, %s, is not in it", resultName, console.Count(n, "path"))
	}
	switch {
	case dangling == 1:
		r.Console.Caution(hint.With(fmt.Errorf("1 symlink in there is for a store path that is not: %s", example), "%s has it", hint.Term("format: rootfs")))
	case dangling > 1:
		r.Console.Caution(hint.With(fmt.Errorf("%d symlinks in there are for store paths that are not: %s, for instance", dangling, example), "%s has them", hint.Term("format: rootfs")))
	}
	return nil
}

// dangling counts the symlinks of a tree in the destination that lead to
// somewhere in a store, which is not there. The first by name is the example,
// with its target.
func (d destination) dangling(tree string) (n int, example string, err error) {
	err = d.walk(func(dir *os.Root, name string, entry fs.DirEntry) error {
		if entry.Type() != fs.ModeSymlink {
			return nil
		}
		target, err := dir.Readlink(entry.Name())
		if err != nil {
			return err
		}
		inStore := strings.HasPrefix(target, nix.StoreDir+"/")
		if !path.IsAbs(target) {
			there := path.Join(path.Dir(name), target)
			inStore = there != tree && !strings.HasPrefix(there, tree+"/")
		}
		if inStore {
			this := name + " → " + target
			if n++; n == 1 || this < example {
				example = this
			}
		}
		return nil
	})
	return n, example, err
}
