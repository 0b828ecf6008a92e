package blob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// Some servers accept the headers of conditional writes and ignore them, and
// two writers would both win. So before its first conditional write a process
// looks whether the cache has been probed, and if not, probes it: whether the
// server refuses to create what is there, and to replace what is not. The
// result stays in the cache for those who come after, under conditionsKey.
//
// Only small objects are probed. All that must not be written twice are small:
// pointers and narinfos; NARs are named by what they hold.

// conditionsKey can't be a pointer's: those begin with a letter or digit.
const conditionsKey = "pointers/.conditional-writes"

// conditions is what this process knows of a store's conditional writes.
type conditions struct {
	mutex sync.Mutex
	known bool
	err   error // if they are known not to work
}

// probed is the object at conditionsKey. It is only good for the place that it
// was written in: buckets are copied elsewhere.
type probed struct {
	Place    string    `json:"place"`
	Honoured bool      `json:"honoured"`
	Time     time.Time `json:"time"`
}

// requireConditions returns an error if conditional writes can't be relied on.
func (s *S3) requireConditions(ctx context.Context) error {
	if s.singleWriter() {
		return fmt.Errorf("%w: conditional_writes is false", errors.ErrUnsupported)
	}
	s.conditions.mutex.Lock()
	defer s.conditions.mutex.Unlock()
	if s.conditions.known {
		return s.conditions.err
	}
	honoured, err := s.conditionsHonoured(ctx)
	if err != nil {
		return hint.With(fmt.Errorf("finding out whether the store has conditional writes: %w", err),
			"this needs to read and write %s, once for each cache", conditionsKey)
	}
	s.conditions.known = true
	if !honoured {
		s.conditions.err = hint.With(fmt.Errorf("%w: %s doesn't heed the conditions of conditional writes, so two writers would overwrite one another", errors.ErrUnsupported, s.location.server()),
			"use another store; or, if nothing but one job at a time ever writes, set conditional_writes: false; after an update of the server delete %s", conditionsKey)
	}
	return s.conditions.err
}

// prepare implements the optional method that Prepare calls.
func (s *S3) prepare(ctx context.Context) error {
	if s.singleWriter() {
		return nil
	}
	return s.requireConditions(ctx)
}

func (s *S3) conditionsHonoured(ctx context.Context) (bool, error) {
	place := s.location.server() + " " + s.location.bucket
	var earlier probed
	data, _, err := ReadAll(ctx, s, conditionsKey, 4096, GetOptions{})
	if err == nil && json.Unmarshal(data, &earlier) == nil && earlier.Place == place {
		return earlier.Honoured, nil
	}
	if err != nil && !errors.Is(err, ErrNotExist) && !errors.Is(err, ErrPermission) {
		return false, err
	}
	honoured, err := s.probeConditions(ctx)
	if err != nil {
		return false, err
	}
	result, err := json.Marshal(probed{place, honoured, time.Now().UTC().Truncate(time.Second)})
	if err == nil {
		_, err = s.write(ctx, conditionsKey, strings.NewReader(string(result)+"\n"), PutOptions{ContentType: "application/json", CacheControl: "no-cache"})
	}
	return honoured, err
}

// probeConditions makes sure that there is an object at conditionsKey and
// tries two writes to it that must be refused. If somebody else does the same
// meanwhile, so be it.
func (s *S3) probeConditions(ctx context.Context) (honoured bool, err error) {
	const probe = "{}\n"
	if _, err := s.write(ctx, conditionsKey, strings.NewReader(probe), PutOptions{}); err != nil {
		return false, err
	}
	for _, condition := range []PutOptions{{IfAbsent: true}, {IfMatch: `"00000000000000000000000000000000"`}} {
		_, err := s.write(ctx, conditionsKey, strings.NewReader(probe), condition)
		switch {
		case err == nil || errors.Is(err, errors.ErrUnsupported):
			return false, nil
		case !errors.Is(err, ErrPrecondition):
			return false, err
		}
	}
	return true, nil
}
