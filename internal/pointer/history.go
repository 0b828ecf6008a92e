package pointer

import (
	"encoding/json"
	"fmt"
)

// A History is what a pointer's object holds: its newest generations. That of
// a pointer that has never been written is empty.
type History struct {
	Generations []Generation // newest first; those that an accepted key has signed
	Skipped     int          // how many others there are; never the newest

	entries []Generation // all, as they were written
	etag    string       // the version of the object
	copy    *plainCopy   // as it was at about the same time; nil if nobody has looked
}

// Newest returns the newest generation, if there is any.
func (h *History) Newest() (Generation, bool) {
	if len(h.Generations) == 0 {
		return Generation{}, false
	}
	return h.Generations[0], true
}

// ETag is the version of the object that the history was read from, for
// [Pointer.ReadIfChanged]. It is empty where the store doesn't tell versions apart.
func (h *History) ETag() string { return h.etag }

// madeBy returns the generation that was made by a run.
func (h *History) madeBy(run string) (Generation, bool) {
	for _, g := range h.Generations {
		if g.Details.Run == run {
			return g, true
		}
	}
	return Generation{}, false
}

// document is the JSON of a pointer's object.
type document struct {
	Pointer     Name              `json:"pointer"`
	Generations []json.RawMessage `json:"generations"`
}

// decodeHistory reads the object of the pointer of that name, and verifies
// nothing but that it is well formed: some generations, numbers falling.
func decodeHistory(name Name, data []byte) ([]Generation, error) {
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	switch {
	case doc.Pointer == "":
		return nil, fmt.Errorf("it doesn't say whose generations it holds")
	case doc.Pointer != name:
		return nil, fmt.Errorf("it is a copy of the pointer %s", doc.Pointer)
	case len(doc.Generations) == 0:
		return nil, fmt.Errorf("it holds no generations")
	}
	generations := make([]Generation, len(doc.Generations))
	for i, entry := range doc.Generations {
		if len(entry) > MaxEntry {
			return nil, fmt.Errorf("entry %d of %d has %d bytes, and may have %d", i+1, len(doc.Generations), len(entry), MaxEntry)
		}
		if err := generations[i].UnmarshalJSON(entry); err != nil {
			return nil, fmt.Errorf("entry %d of %d: %w", i+1, len(doc.Generations), err)
		}
		if i > 0 && generations[i].Number >= generations[i-1].Number {
			return nil, fmt.Errorf("generation %d stands below generation %d, where only smaller numbers may", generations[i].Number, generations[i-1].Number)
		}
	}
	return generations, nil
}

// encodeHistory is the inverse of decodeHistory.
func encodeHistory(name Name, generations []Generation) ([]byte, error) {
	doc := document{Pointer: name}
	for _, g := range generations {
		entry, err := g.encode(MaxEntry)
		if err != nil {
			return nil, err
		}
		doc.Generations = append(doc.Generations, entry)
	}
	return encode(doc)
}
