package cache

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nix-community/go-nix/pkg/narinfo"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// From cache.nixos.org, by way of go-nix's tests.
const curl = `StorePath: /nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin
URL: nar/05ra3y72i3qjri7xskf9qj8kb29r6naqy1sqpbs3azi3xcigmj56.nar.xz
Compression: xz
FileHash: sha256:05ra3y72i3qjri7xskf9qj8kb29r6naqy1sqpbs3azi3xcigmj56
FileSize: 68852
NarHash: sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0
NarSize: 196040
References: 0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0 6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115 j5jxw3iy7bbz4a57fh9g2xm2gxmyal8h-zlib-1.2.12 yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1n
Deriver: 5rwxzi7pal3qhpsyfc16gzkh939q1np6-curl-7.82.0.drv
Sig: cache.nixos.org-1:TsTTb3WGTZKphvYdBHXwo6weVILmTytUjLB+vcX89fOjjRicCHmKA4RCPMVLkj6TMJ4GMX3HPVWRdD1hkeKZBQ==
`

func TestParseNarInfo(t *testing.T) {
	ni, err := ParseNarInfo(curl)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(curl, ni.format()); diff != "" {
		t.Errorf("written anew (-want +got)\n%s", diff)
	}
	nixos, err := nix.ParsePublicKey("cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=")
	if err != nil {
		t.Fatal(err)
	}
	if !ni.SignedBy(nix.Keys{nixos}) {
		t.Errorf("the signature doesn't match %q", ni.Fingerprint())
	}
	theirs, err := narinfo.Parse(strings.NewReader(curl))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(theirs.Fingerprint(), ni.Fingerprint()); diff != "" {
		t.Errorf("fingerprint (-go-nix +ours)\n%s", diff)
	}
}

func TestParseNarInfoLeniently(t *testing.T) {
	without := func(prefix string) string {
		var b strings.Builder
		for line := range strings.Lines(curl) {
			if !strings.HasPrefix(line, prefix) {
				b.WriteString(line)
			}
		}
		return b.String()
	}
	ni, err := ParseNarInfo("System: x\nUnknown: a: b\n" + without("Compression") + "Sig: not-a-signature\n")
	if err != nil {
		t.Fatal(err)
	}
	if ni.Compression != "bzip2" {
		t.Errorf("no Compression means %q, want bzip2", ni.Compression)
	}
	if len(ni.Signatures) != 1 {
		t.Errorf("%d signatures, want the one that is well-formed", len(ni.Signatures))
	}
	if ni, err = ParseNarInfo(without("File")); err != nil || !ni.FileHash.IsZero() || ni.FileSize != 0 {
		t.Errorf("without FileHash and FileSize: %v, %d, %v", ni.FileHash, ni.FileSize, err)
	}
	if ni, err = ParseNarInfo(strings.Replace(curl, "5rwxzi7pal3qhpsyfc16gzkh939q1np6-curl-7.82.0.drv", "unknown-deriver", 1)); err != nil || !ni.Deriver.IsZero() {
		t.Errorf("unknown deriver: %v, %v", ni.Deriver, err)
	}
}

func TestParseNarInfoRefuses(t *testing.T) {
	for _, test := range []struct{ name, old, new, want string }{
		{"no store path", "StorePath: ", "Stray: ", "StorePath is missing"},
		{"no URL", "URL: ", "Stray: ", "URL is missing"},
		{"a store path below another", "curl-7.82.0-bin\n", "curl-7.82.0-bin/x\n", "not a store path"},
		{"an absolute URL", "URL: nar/", "URL: https://example.org/", "leads out of the cache"},
		{"a rooted URL", "URL: nar/", "URL: /nar/", "leads out of the cache"},
		{"a URL that climbs", "URL: nar/", "URL: nar/../../", "leads out of the cache"},
		{"a size of zero", "NarSize: 196040", "NarSize: 0", "not a size"},
		{"a negative size", "NarSize: 196040", "NarSize: -1", "not a size"},
		{"a size beyond 64 bits", "NarSize: 196040", "NarSize: 99999999999999999999", "not a size"},
		{"a size that makes sums overflow", "NarSize: 196040", "NarSize: 9223372036854775807", "not a size"},
		{"another hash function", "NarHash: sha256:", "NarHash: sha512:", "SHA-256"},
		{"a reference that is none", "6w8g7njm4mck5dmjxws0z1xnrxvl81xa-", "", "not a store path"},
		{"two hashes", "NarSize:", "NarHash: sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0\nNarSize:", "stands there twice"},
		{"no narinfo", curl, "<html>", "no colon"},
		{"nothing", curl, "", "missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseNarInfo(strings.Replace(curl, test.old, test.new, 1))
			wantError(t, err, test.want)
		})
	}
}

// What is parsed can be written and parsed again, to the same effect.
func FuzzParseNarInfo(f *testing.F) {
	f.Add(curl)
	f.Add(strings.ReplaceAll(curl, ": ", ":"))
	f.Add(curl + "CA: fixed:r:sha256:x\n")
	f.Fuzz(func(t *testing.T, text string) {
		ni, err := ParseNarInfo(text)
		if err != nil {
			return
		}
		again, err := ParseNarInfo(ni.format())
		if err != nil {
			t.Fatalf("%v\n%s", err, ni.format())
		}
		if again.Fingerprint() != ni.Fingerprint() || again.URL != ni.URL {
			t.Errorf("%q became %q", text, ni.format())
		}
	})
}

func BenchmarkParseNarInfo(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseNarInfo(curl); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseNarInfoGoNix(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := narinfo.Parse(strings.NewReader(curl)); err != nil {
			b.Fatal(err)
		}
	}
}
