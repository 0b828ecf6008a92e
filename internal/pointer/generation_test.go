package pointer

import (
	"encoding/json"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

func TestGenerationAlone(t *testing.T) {
	// As a get writes it to generation.json, and a promotion reads it.
	g := mustAppend(t, open(blob.NewMemory()), "a").Generation
	data, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	var got Generation
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := diff(g, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for name, test := range map[string]struct {
		pointer Name
		keys    nix.Keys
		want    bool
	}{
		"right":          {"web-1", public(ours), true},
		"one of keys":    {"web-1", public(strangers, ours), true},
		"other pointer":  {"web-2", public(ours), false},
		"other key":      {"web-1", public(next), false},
		"namesake's key": {"web-1", public(namesake), false},
		"no keys":        {"web-1", nil, false},
	} {
		if ok := got.Verify(test.pointer, test.keys); ok != test.want {
			t.Errorf("%s: %v", name, ok)
		}
	}
	got.Path = path("b")
	if got.Verify("web-1", public(ours)) {
		t.Error("an edited generation is verified")
	}
}

func TestUnsignedGenerationAlone(t *testing.T) {
	g := mustAppend(t, open(blob.NewMemory(), unsigned), "a").Generation
	data, err := json.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	if list, ok := fields["signatures"].([]any); !ok || len(list) != 0 {
		t.Errorf("signatures are %v, not an empty list", fields["signatures"])
	}
}

func FuzzDecodeHistory(f *testing.F) {
	store := blob.NewMemory()
	p := open(store)
	for _, label := range []string{"a", "b", "c"} {
		if _, err := p.Append(f.Context(), proposal(label)); err != nil {
			f.Fatal(err)
		}
	}
	data, _, err := blob.ReadAll(f.Context(), store, object, MaxObject, blob.GetOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"pointer":"web-1","generations":[null]}`))
	f.Add([]byte(`{"pointer":"web-1","generations":[{"generation":1,"path":null,"details":null,"signatures":null}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		generations, err := decodeHistory("web-1", data)
		if err != nil {
			return
		}
		if len(generations) == 0 {
			t.Fatal("no generations, and no error")
		}
		for _, g := range generations {
			if err := g.check(); err != nil {
				t.Fatalf("%d: %v", g.Number, err)
			}
		}
		// What was read can be written, unless that makes an entry too long, and
		// says the same when it is read again.
		again, err := encodeHistory("web-1", generations)
		if err != nil {
			return
		}
		reread, err := decodeHistory("web-1", again)
		if err != nil {
			t.Fatal(err)
		}
		for i, g := range generations {
			if g.line("web-1") != reread[i].line("web-1") || len(g.Signatures) != len(reread[i].Signatures) {
				t.Errorf("%d: read %+v, then %+v", g.Number, g, reread[i])
			}
		}
	})
}
