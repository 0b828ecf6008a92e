package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A Hold is that somebody has asked a host not to move, for a while. It always
// ends: one without an end is one that somebody has forgotten.
type Hold struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

const holdFile = "hold.json"

// WriteHold asks the host of that state directory not to move.
func WriteHold(dir string, h Hold) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, holdFile), append(data, '\n'), 0o644)
}

// ReadHold returns the hold of a host, or nil. It may be over.
func ReadHold(dir string) (*Hold, error) {
	file := filepath.Join(dir, holdFile)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var h Hold
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, fmt.Errorf("%s is not a hold: %w", file, err)
	}
	return &h, nil
}

// Release lets the host move again, and says whether it was held.
func Release(dir string) (bool, error) {
	err := os.Remove(filepath.Join(dir, holdFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
