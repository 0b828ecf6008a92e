package pointer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// ErrGone is wrapped by the errors that say that a pointer has no generation
// of some number, or none any more.
var ErrGone = errors.New("there is no such generation")

// ErrInvalid is wrapped by the errors that say that what was read is not to be
// believed: it is not as a pointer's writers leave it, or no accepted key has
// signed it. Errors that don't wrap it say that it could not be read.
var ErrInvalid = errors.New("the pointer is not valid")

// An invalid error is one that is ErrInvalid, and says more.
type invalid struct{ error }

func (e invalid) Unwrap() []error { return []error{e.error, ErrInvalid} }

// Read returns the pointer's history, in one request. A pointer that doesn't
// exist has an empty one; whatever else isn't a well-formed history whose
// newest generation is signed by an accepted key is an error.
func (p *Pointer) Read(ctx context.Context) (*History, error) { return p.ReadIfChanged(ctx, "") }

// ReadIfChanged is Read unless the history is the one with that [History.ETag]:
// then the error wraps blob.ErrNotModified, and next to nothing was transferred.
func (p *Pointer) ReadIfChanged(ctx context.Context, etag string) (*History, error) {
	if err := p.readable(); err != nil {
		return nil, err
	}
	key := p.config.Name.historyKey()
	data, info, err := blob.ReadAll(ctx, p.store, key, MaxObject, blob.GetOptions{IfNoneMatch: etag})
	if errors.Is(err, blob.ErrNotExist) {
		return &History{}, nil
	}
	if err != nil {
		return nil, p.unreadable(err)
	}
	history := &History{etag: info.ETag}
	if history.entries, err = decodeHistory(p.config.Name, data); err != nil {
		return nil, p.malformed(key, err)
	}
	for i, g := range history.entries {
		switch {
		case p.accepts(g):
			history.Generations = append(history.Generations, g)
		case i == 0:
			return nil, p.distrust(g)
		default:
			history.Skipped++
		}
	}
	return history, nil
}

// Look is Read for those who are about to write: it reads the plain-text copy
// at the same time, for an Append that gets the history as Proposal.Seen. It fails,
// as Append would, if the history was deleted and something else of the pointer is
// left.
func (p *Pointer) Look(ctx context.Context) (*History, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make(chan *plainCopy, 1)
	go func() {
		plain, err := p.readPlain(ctx)
		if err != nil || plain.exists && plain.etag == "" {
			found <- nil // Append reads it by itself, and can't do without
			return
		}
		found <- &plain
	}()
	history, err := p.Read(ctx)
	if err != nil {
		return nil, err
	}
	history.copy = <-found
	if len(history.entries) > 0 {
		return history, nil
	}
	if history.copy != nil && !history.copy.exists {
		if kept, err := p.hasKept(ctx); err != nil || !kept {
			return history, err
		}
	}
	return p.readForWriting(ctx, nil) // which reads both again, should they have come just now
}

// Find returns the generation of that number, 0 for the newest, from the history or
// from where it is kept since it left it. If there is none, the error wraps ErrGone.
func (p *Pointer) Find(ctx context.Context, number uint64) (Generation, error) {
	history, err := p.Read(ctx)
	if err != nil {
		return Generation{}, err
	}
	return p.FindIn(ctx, history, number)
}

// FindIn is Find, given the history as it was read: it makes no request unless the
// generation has left it, or it is empty.
func (p *Pointer) FindIn(ctx context.Context, history *History, number uint64) (Generation, error) {
	newest, exists := history.Newest()
	if !exists {
		return Generation{}, hint.With(fmt.Errorf("%s has never been put: %w", p, ErrGone), "%s", p.adviceOnName(ctx))
	}
	if number == 0 {
		return newest, nil
	}
	if number > newest.Number {
		return Generation{}, hint.With(fmt.Errorf("generation %d of %s: the newest is %d: %w", number, p, newest.Number, ErrGone),
			"numbers never fall: if it was there before, somebody has deleted the pointer or put back an old copy")
	}
	i := slices.IndexFunc(history.entries, func(g Generation) bool { return g.Number == number })
	if i < 0 {
		return p.findKept(ctx, number)
	}
	if g := history.entries[i]; !p.accepts(g) {
		return Generation{}, p.distrust(g)
	}
	return history.entries[i], nil
}

// adviceOnName says what to do about a pointer that isn't there, by the names of those
// that are.
func (p *Pointer) adviceOnName(ctx context.Context) string {
	const most = 10000 // objects that are looked at: ten requests
	var names []string
	looked := 0
	for info, err := range p.store.List(ctx, "pointers/") {
		if looked++; err != nil || looked > most {
			break // whoever may read pointers need not be allowed to list them
		}
		name, isHistory := strings.CutSuffix(strings.TrimPrefix(info.Key, "pointers/"), ".json")
		if _, err := ParseName(name); isHistory && err == nil {
			names = append(names, name)
		}
	}
	if near := hint.Nearest(string(p.config.Name), names); near != "" {
		return "did you mean " + near + "?"
	}
	if len(names) > 0 {
		return "the pointers in there are " + hint.Few(names)
	}
	return "put it first; if it was there before, somebody has deleted it, or the source names another cache or pointer now"
}

// findKept returns a generation that has left the history.
func (p *Pointer) findKept(ctx context.Context, number uint64) (Generation, error) {
	g, err := p.readKept(ctx, number)
	if errors.Is(err, blob.ErrNotExist) {
		return Generation{}, hint.With(fmt.Errorf("generation %d of %s: %w", number, p, ErrGone),
			"all that the history doesn't hold are kept in pointers/%s.d: somebody deleted this one there", p.config.Name)
	}
	if err != nil {
		return Generation{}, err
	}
	if !p.accepts(g) {
		return Generation{}, p.distrust(g)
	}
	return g, nil
}

// readKept reads the object of a generation of its own. It may be anybody's.
func (p *Pointer) readKept(ctx context.Context, number uint64) (Generation, error) {
	key := p.config.Name.numberedKey(number)
	data, _, err := blob.ReadAll(ctx, p.store, key, MaxEntry, blob.GetOptions{})
	if err != nil {
		return Generation{}, p.unreadable(err)
	}
	var g Generation
	if err := json.Unmarshal(data, &g); err != nil {
		return Generation{}, p.malformed(key, err)
	}
	if g.Number != number {
		return Generation{}, p.malformed(key, fmt.Errorf("it holds generation %d", g.Number))
	}
	return g, nil
}

// accepts says whether the pointer's readers believe g.
func (p *Pointer) accepts(g Generation) bool {
	return !p.config.RequireSigs || g.Verify(p.config.Name, p.config.PublicKeys)
}

// unreadable is the error of a read. The store's own say what was read where.
func (p *Pointer) unreadable(err error) error {
	var large *blob.TooLargeError
	if errors.As(err, &large) {
		return p.malformed(large.Key, err)
	}
	return err
}

// malformed is the error of an object that is not one of a pointer's.
func (p *Pointer) malformed(key string, err error) error {
	return hint.With(invalid{fmt.Errorf("%s in %s is not as a pointer's writers leave it: %w", key, p.store, err)},
		"if that is the cache, and not a web server that says something else, somebody has written to it: put an earlier version of this object back, and find out who may write to pointers/")
}

// distrust is the error of a generation that no accepted key has signed.
func (p *Pointer) distrust(g Generation) error {
	keys := p.config.PublicKeys
	known := func(s nix.Signature) bool {
		return slices.ContainsFunc(keys, func(k nix.PublicKey) bool { return k.Name() == s.Name })
	}
	switch {
	case len(g.Signatures) == 0:
		return hint.With(invalid{fmt.Errorf("generation %d of %s is not signed; accepted are signatures by %s", g.Number, p, keys.Names())},
			"if it was written so on purpose, publish its path once with require_sigs: false and a signing_key, which signs it")
	case slices.ContainsFunc(g.Signatures, known):
		return hint.With(invalid{fmt.Errorf("generation %d of %s does not match its signature by %s", g.Number, p, signers(g))},
			"it was changed after it was signed, or signed for another pointer, or by another key of the same name: find out who wrote it before anything runs it")
	default:
		return hint.With(invalid{fmt.Errorf("generation %d of %s is signed by %s; accepted are signatures by %s", g.Number, p, signers(g), keys.Names())},
			"if its writer has a new key, add its public half to pointer_public_keys (or trusted_public_keys)")
	}
}

// signers are the names of the keys that g says it is signed by.
func signers(g Generation) string {
	names := make([]string, len(g.Signatures))
	for i, s := range g.Signatures {
		names[i] = fmt.Sprintf("%q", s.Name)
	}
	return strings.Join(names, ", ")
}
