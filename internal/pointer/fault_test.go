package pointer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

// before returns a store in which do happens before the first n writes to key.
func before(store blob.Store, key string, n int, do func()) blob.Store {
	return storeFunc{Store: store, put: func(k string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
		if k == key && n > 0 {
			n--
			do()
		}
		return next()
	}}
}

var (
	errCut  = errors.New("connection reset by peer")
	errDead = errors.New("killed")
)

// mortal returns a store whose user is killed at its nth write: just before
// that is done, or just after.
func mortal(store blob.Store, n int, after bool) (blob.Store, *bool) {
	dead := new(bool)
	return storeFunc{
		Store: store,
		get: func(_ string, next func() (*blob.Object, error)) (*blob.Object, error) {
			if *dead {
				return nil, errDead
			}
			return next()
		},
		put: func(_ string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
			if *dead {
				return blob.Info{}, errDead
			}
			if n--; n > 0 {
				return next()
			}
			*dead = true
			if after {
				next()
			}
			return blob.Info{}, errDead
		},
	}, dead
}

func TestKilledAtAnyWrite(t *testing.T) {
	for _, there := range []int{0, 1, Keep} {
		base := blob.NewMemory()
		fill(t, open(base), there)
		for _, after := range []bool{false, true} {
			writes := 0
			for done := false; !done; {
				writes++
				t.Run(fmt.Sprintf("%d there, write %d, after %v", there, writes, after), func(t *testing.T) {
					store := clone(t, base)
					cut, dead := mortal(store, writes, after)
					label := fmt.Sprint(there + 1)
					proposal := proposal(label)
					proposal.Seen = mustLook(t, open(cut))
					_, err := open(cut).Append(t.Context(), proposal)
					if !*dead {
						done = true
						return
					}
					if !errors.Is(err, errDead) {
						t.Fatalf("Append of the dead returned %v", err)
					}
					// What is left behind is whole.
					p := open(store)
					newest, _ := mustRead(t, p).Newest()
					wantFindable(t, p, int(newest.Number))
					if newest.Number != uint64(there) && newest.Number != uint64(there+1) {
						t.Errorf("newest is %d", newest.Number)
					}
					// Once more, and it is finished, and there is one of it.
					outcome := mustAppend(t, p, label)
					if outcome.Generation.Number != uint64(there+1) {
						t.Errorf("finished as %+v", outcome)
					}
					wantFindable(t, p, there+1)
					wantPlain(t, p)
					if outcome := mustAppend(t, p, label); outcome.Moved {
						t.Error("there is a second one")
					}
				})
			}
			if least := 3; writes < least {
				t.Errorf("only %d writes were tried", writes-1)
			}
		}
	}
}

// clone copies a store.
func clone(t *testing.T, store blob.Store) blob.Store {
	t.Helper()
	result := blob.NewMemory()
	for info, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		put(t, result, info.Key, get(t, store, info.Key))
	}
	return result
}

func TestLostAnswers(t *testing.T) {
	// Each write is done, and says that it wasn't: because the answer was lost,
	// or because the store repeated the request and met its own first write.
	for _, lost := range []error{errCut, blob.ErrPrecondition} {
		for _, there := range []int{0, Keep} {
			t.Run(fmt.Sprintf("%v, %d there", lost, there), func(t *testing.T) {
				memory := blob.NewMemory()
				fill(t, open(memory), there)
				writes := 0
				store := storeFunc{Store: memory, put: func(key string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
					info, err := next()
					if err == nil {
						writes++
						err = fmt.Errorf("writing %s: %w", key, lost)
					}
					return info, err
				}}
				outcome := mustAppend(t, open(store), fmt.Sprint(there+1))
				if !outcome.Moved || outcome.Generation.Number != uint64(there+1) {
					t.Errorf("got %+v", outcome)
				}
				if writes < 2 {
					t.Errorf("%d answers were lost", writes)
				}
				wantFindable(t, open(memory), there+1)
				wantPlain(t, open(memory))
			})
		}
	}
}

func TestWriteThatArrivesLate(t *testing.T) {
	// The request is still under way when its sender has looked, and given up.
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	var late func() (blob.Info, error)
	store := storeFunc{Store: memory, put: func(_ string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
		late = next
		return blob.Info{}, errCut
	}}
	if _, err := open(store).Append(t.Context(), proposal("b")); !errors.Is(err, errCut) {
		t.Fatalf("got %v", err)
	}
	wantGenerations(t, open(memory), "1:a")
	if _, err := late(); err != nil {
		t.Fatal(err)
	}
	if outcome := mustAppend(t, open(memory), "b"); outcome.Moved {
		t.Error("there is a second one")
	}
	wantGenerations(t, open(memory), "2:b 1:a")
}

func TestOtherWritersComeBetween(t *testing.T) {
	for _, test := range []struct {
		key  string // before which of our writes
		n    int    // how many times
		want string
	}{
		{object, 2, "4:b 3:y 2:x 1:a"},
		{object, maxTries + 1, "11:b 10:x 9:y 8:x 7:y 6:x 5:y 4:x 3:y 2:x 1:a"}, // no reason to give up
		{"pointers/web-1", 1, "3:x 2:b 1:a"},
	} {
		t.Run(fmt.Sprint(test.key, test.n), func(t *testing.T) {
			memory := blob.NewMemory()
			mustAppend(t, open(memory), "a")
			other := "y"
			store := before(memory, test.key, test.n, func() {
				other = map[string]string{"x": "y", "y": "x"}[other]
				mustAppend(t, open(memory), other)
			})
			if outcome := mustAppend(t, open(store), "b"); !outcome.Moved {
				t.Errorf("got %+v", outcome)
			}
			wantGenerations(t, open(memory), test.want)
		})
	}
}

func TestSlowWriterDoesNotTakeTheCopyBack(t *testing.T) {
	// A writer sleeps just before it writes the copy. Meanwhile another moves
	// the pointer on; then the first one wakes up, writes, and is killed.
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	cut, dead := mortal(memory, 2, true)
	slow := storeFunc{Store: cut, put: func(key string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
		if key == "pointers/web-1" {
			mustAppend(t, open(memory), "c")
		}
		return next()
	}}
	if _, err := open(slow).Append(t.Context(), proposal("b")); err == nil || !*dead {
		t.Fatalf("got %v", err)
	}
	wantGenerations(t, open(memory), "3:c 2:b 1:a")
}

func TestWriterThatSleptBeforeTheCopy(t *testing.T) {
	// A writer sleeps between the history and the look at the copy. Meanwhile
	// another moves both on; so the first one has nothing to write any more, and
	// if it is killed where it would have, the copy is not behind.
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	cut, dead := mortal(memory, 2, true)
	written, slept := false, false
	slow := storeFunc{
		Store: cut,
		put: func(key string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
			written = written || key == object
			return next()
		},
		get: func(key string, next func() (*blob.Object, error)) (*blob.Object, error) {
			if key == "pointers/web-1" && written && !slept {
				slept = true
				mustAppend(t, open(memory), "c")
			}
			return next()
		},
	}
	if _, err := open(slow).Append(t.Context(), proposal("b")); err != nil || *dead || !slept {
		t.Errorf("killed: %v, slept: %v, got %v", *dead, slept, err)
	}
	wantGenerations(t, open(memory), "3:c 2:b 1:a")
}

func TestCopyIsLookedAtAgain(t *testing.T) {
	// Just before a writer writes the copy, another moves the pointer and is
	// killed. The one who lives leaves no copy behind the history.
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	store := before(memory, "pointers/web-1", 1, func() {
		cut, _ := mortal(memory, 2, false)
		if _, err := open(cut).Append(t.Context(), proposal("c")); !errors.Is(err, errDead) {
			t.Errorf("the other one: %v", err)
		}
	})
	mustAppend(t, open(store), "b")
	wantGenerations(t, open(memory), "3:c 2:b 1:a")
}

func TestFirstWritersMeet(t *testing.T) {
	// Between a look at the history and one at the copy, both come to be.
	memory := blob.NewMemory()
	met := false
	store := storeFunc{Store: memory, get: func(key string, next func() (*blob.Object, error)) (*blob.Object, error) {
		if key == "pointers/web-1" && !met {
			met = true
			mustAppend(t, open(memory), "a")
		}
		return next()
	}}
	mustAppend(t, open(store), "b")
	wantGenerations(t, open(memory), "2:b 1:a")
}

func TestBusyStore(t *testing.T) {
	// A store that answers "somebody else is writing" until the other is done,
	// and that other fails in the end.
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	busy := map[string]int{object: 3, "pointers/web-1": 3}
	store := storeFunc{Store: memory, put: func(key string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
		if busy[key] > 0 {
			busy[key]--
			return blob.Info{}, blob.ErrPrecondition
		}
		return next()
	}}
	mustAppend(t, open(store), "b")
	wantGenerations(t, open(memory), "2:b 1:a")
}

// A store without conditional writes: it refuses them, or, if ignorant, takes
// no notice of the conditions.
type unconditional struct {
	blob.Store
	ignorant bool
}

func (s unconditional) Put(ctx context.Context, key string, body io.Reader, opts blob.PutOptions) (blob.Info, error) {
	if (opts.IfAbsent || opts.IfMatch != "") && !s.ignorant {
		return blob.Info{}, errors.ErrUnsupported
	}
	opts.IfAbsent, opts.IfMatch = false, ""
	return s.Store.Put(ctx, key, body, opts)
}

func (s unconditional) Capabilities() blob.Capabilities {
	return blob.Capabilities{Write: true, List: true, Conditional: s.ignorant}
}

func TestSingleWriter(t *testing.T) {
	p := open(unconditional{blob.NewMemory(), false}, func(c *Config) { c.SingleWriter = true })
	fill(t, p, Keep)
	mustAppend(t, p, strconv.Itoa(Keep+1), strconv.Itoa(Keep+2))
	if outcome := mustAppend(t, p, strconv.Itoa(Keep+2)); outcome.Moved {
		t.Error("there is a second one")
	}
	wantFindable(t, p, Keep+2)
	wantPlain(t, p)
}

func TestWriteThatIsOverwritten(t *testing.T) {
	// The store says that it honours conditions, or the user that there is one
	// writer. Neither is true, and two writers read the same generation.
	for name, test := range map[string]struct {
		ignorant bool
		option   func(*Config)
		only     *uint64 // IfGeneration
		err      string
		want     string
	}{
		"ignored conditions":                  {true, func(*Config) {}, nil, "", "3:b 2:x 1:a"},
		"ignored conditions, and one to obey": {true, func(*Config) {}, new(uint64(1)), "another writer has overwritten generation 2: pointer web-1 in memory: has moved: the newest generation is 2, not 1", "2:x 1:a"},
		"single writer":                       {false, func(c *Config) { c.SingleWriter = true }, nil, "generation 2 of pointer web-1 in memory:: it was written, and can't be read back: another writer has overwritten generation 2", "2:x 1:a"},
	} {
		t.Run(name, func(t *testing.T) {
			store := unconditional{blob.NewMemory(), test.ignorant}
			mustAppend(t, open(store, test.option), "a")
			once := true
			overwritten := storeFunc{Store: store, put: func(key string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
				if key != object || !once {
					return next()
				}
				once = false
				// The other one has read by now, and writes after us.
				second := before(store, object, 1, func() {
					if _, err := next(); err != nil {
						t.Error(err)
					}
				})
				mustAppend(t, open(second, test.option), "x")
				return store.Stat(t.Context(), key)
			}}
			proposal := proposal("b")
			proposal.IfGeneration = test.only
			outcome, err := open(overwritten, test.option).Append(t.Context(), proposal)
			if test.err != "" {
				wantError(t, err, test.err)
			} else if err != nil || !outcome.Moved || outcome.Generation.Number != 3 {
				t.Errorf("got %+v, %v", outcome, err)
			}
			wantGenerations(t, open(store, test.option), test.want)
		})
	}
}

// Whoever is overwritten again and again says so at last.
func TestWriteThatIsAlwaysOverwritten(t *testing.T) {
	store := unconditional{blob.NewMemory(), true}
	mustAppend(t, open(store), "a")
	writes := 0
	overwritten := storeFunc{Store: store, put: func(key string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
		if key != object {
			return next()
		}
		writes++
		second := before(store, object, 1, func() {
			if _, err := next(); err != nil {
				t.Error(err)
			}
		})
		mustAppend(t, open(second), "x"+strconv.Itoa(writes))
		return store.Stat(t.Context(), key)
	}}
	_, err := open(overwritten).Append(t.Context(), proposal("b"))
	var lost *OverwrittenError
	if !errors.As(err, &lost) || writes != maxTries {
		t.Errorf("after %d writes: %v", writes, err)
	}
}

func TestStoreThatRefusesAllConditions(t *testing.T) {
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	for _, key := range []string{object, "pointers/web-1"} {
		store := storeFunc{Store: memory, put: func(k string, _ blob.PutOptions, next func() (blob.Info, error)) (blob.Info, error) {
			if k == key {
				return blob.Info{}, blob.ErrPrecondition
			}
			return next()
		}}
		_, err := open(store).Append(t.Context(), proposal("b"))
		wantError(t, err, "says the store 8 times, but nothing has changed")
	}
}

func TestStoreWithoutETags(t *testing.T) {
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	store := storeFunc{Store: memory, get: func(_ string, next func() (*blob.Object, error)) (*blob.Object, error) {
		o, err := next()
		if err == nil {
			o.ETag = ""
		}
		return o, err
	}}
	_, err := open(store).Append(t.Context(), proposal("b"))
	wantError(t, err, "the store doesn't tell versions of pointers/web-1.json apart")
	wantGenerations(t, open(memory), "1:a")
}

func TestForbidden(t *testing.T) {
	memory := blob.NewMemory()
	mustAppend(t, open(memory), "a")
	deny := func(key string) blob.Store {
		return storeFunc{Store: memory,
			get: func(k string, next func() (*blob.Object, error)) (*blob.Object, error) {
				if k == key {
					return nil, blob.ErrPermission
				}
				return next()
			}}
	}
	if history, err := open(deny(object)).Read(t.Context()); !errors.Is(err, blob.ErrPermission) {
		t.Errorf("read %v, %v", history, err)
	}
	for _, key := range []string{object, "pointers/web-1"} {
		if _, err := open(deny(key)).Append(t.Context(), proposal("a")); !errors.Is(err, blob.ErrPermission) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestRace(t *testing.T) {
	const writers, each = 6, 3
	directory := t.TempDir()
	memory := blob.NewMemory()
	for name, store := range map[string]func() blob.Store{
		"memory":    func() blob.Store { return memory },
		"directory": func() blob.Store { return blob.NewDirectory(directory) }, // one for each, as if in processes of their own
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			var readers, writing sync.WaitGroup
			readers.Go(func() { watch(ctx, t, store()) })
			outcomes := make([][]Outcome, writers)
			for w := range writers {
				writing.Go(func() {
					p := open(store())
					for i := range each {
						proposal := proposal(fmt.Sprint(w*each + i + 1))
						var err error
						if w%2 == 0 {
							if proposal.Seen, err = p.Look(ctx); err != nil {
								t.Error(err)
							}
						}
						outcome, err := p.Append(ctx, proposal)
						if err != nil {
							t.Error(err)
						}
						outcomes[w] = append(outcomes[w], outcome)
					}
				})
			}
			writing.Wait()
			cancel()
			readers.Wait()

			p := open(store())
			seen := make(map[uint64]bool)
			for w := range outcomes {
				for i, outcome := range outcomes[w] {
					g, err := p.Find(t.Context(), outcome.Generation.Number)
					if err != nil || g.Path != path(fmt.Sprint(w*each+i+1)) {
						t.Errorf("generation %d is lost: %+v, %v", outcome.Generation.Number, g, err)
					}
					seen[g.Number] = true
				}
			}
			if len(seen) != writers*each || !seen[1] || !seen[writers*each] {
				t.Errorf("%d writers appended %d each, and got %d numbers", writers, each, len(seen))
			}
			wantPlain(t, p)
		})
	}
}

// watch reads until ctx ends, and fails if ever a number falls or a path changes.
func watch(ctx context.Context, t *testing.T, store blob.Store) {
	p := open(store, unsigned) // for speed
	paths := make(map[uint64]string)
	last := uint64(0)
	for ctx.Err() == nil {
		history, err := p.Read(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		newest, _ := history.Newest()
		if newest.Number < last {
			t.Errorf("the newest generation was %d, and is %d", last, newest.Number)
		}
		last = newest.Number
		for _, g := range history.Generations {
			if known, ok := paths[g.Number]; ok && known != g.Path.String() {
				t.Errorf("generation %d was %s, and is %s", g.Number, known, g.Path)
			}
			paths[g.Number] = g.Path.String()
		}
	}
}
