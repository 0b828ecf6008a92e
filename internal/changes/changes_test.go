package changes

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
)

// path is the store path of something; what is built again has the same name
// and another path.
func path(t *testing.T, something string) nix.StorePath {
	t.Helper()
	name, _, _ := strings.Cut(something, " ")
	hash := nix.Hash(sha256.Sum256([]byte(something)))
	p, err := nix.ParseBaseName(strings.TrimPrefix(hash.String(), "sha256:")[:32] + "-" + name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// closure is one whose root refers to some paths, with further paths that only
// those refer to. Each has the size of 1 MiB, or that which follows its name.
func closure(t *testing.T, root string, references, others []string) Closure {
	t.Helper()
	var cl Closure
	add := func(something string) nix.StorePath {
		info := nix.PathInfo{NarSize: 1 << 20}
		name, size, _ := strings.Cut(something, ":")
		fmt.Sscan(size, &info.NarSize)
		info.Path = path(t, name)
		cl.Infos = append(cl.Infos, info)
		return info.Path
	}
	var paths []nix.StorePath
	for _, r := range references {
		paths = append(paths, add(r))
	}
	for _, o := range others {
		add(o)
	}
	cl.Root = add(root)
	cl.Infos[len(cl.Infos)-1].References = nix.SortPaths(paths)
	return cl
}

func words(s string) []string { return strings.Fields(s) }

// twoDays are a system today and tomorrow.
func twoDays(t *testing.T) (today, tomorrow Closure) {
	t.Helper()
	today = closure(t, "nixos-system-web-1-25.05.1:2048",
		words("linux-6.12.30 linux-6.12.30-modules initrd-linux-6.12.30 systemd-257.6 system-path etc:1000"),
		words("nginx-1.28.0 libfoo-1.1 libfoo-1.2 openssl-3.0.14 openssl-3.0.14-bin gone-1:2097152 motd"))
	today.Generation, today.Revision = 11, "1f0c9d7c9f7d0c4b8c0d5e6f7a8b9c0d1e2f3a4b"
	tomorrow = closure(t, "nixos-system-web-1-25.05.2:2048",
		words("linux-6.12.31 linux-6.12.31-modules initrd-linux-6.12.31:2000000 systemd-257.6 system-path etc:1000"),
		words("nginx-1.28.1:1061274 libfoo-1.1 libfoo-1.3 openssl-3.0.14:1048575 openssl-3.0.14-bin come-1:2097152 motd:1000000"))
	tomorrow.Generation, tomorrow.Revision = 12, "8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b"
	return today, tomorrow
}

func TestText(t *testing.T) {
	today, tomorrow := twoDays(t)
	const want = `come: ∅ → 1, +2.0 MiB
gone: 1 → ∅, -2.0 MiB
initrd-linux: 6.12.30 → 6.12.31, +929.1 KiB
libfoo: 1.2 → 1.3
linux: 6.12.30 → 6.12.31
motd: -47.4 KiB
nginx: 1.28.0 → 1.28.1, +12.4 KiB
nixos-system-web: 1-25.05.1 → 1-25.05.2

closure: 14 paths, 13.0 MiB → 13.9 MiB, +894.1 KiB
revision: 1f0c9d7c9f7d0c4b8c0d5e6f7a8b9c0d1e2f3a4b → 8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b
reboot due: kernel, initrd
`
	c := Compare(today, tomorrow)
	if diff := cmp.Diff(want, c.Text(false)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	coloured := c.Text(true)
	for _, line := range []string{
		"come: ∅ → 1, \x1b[31;1m+2.0 MiB\x1b[0m\n",
		"gone: 1 → ∅, \x1b[32;1m-2.0 MiB\x1b[0m\n",
		"13.9 MiB, \x1b[31;1m+894.1 KiB\x1b[0m\n",
		"\x1b[33;1mreboot due: kernel, initrd\x1b[0m\n",
	} {
		if !strings.Contains(coloured, line) {
			t.Errorf("there is no %q in %q", line, coloured)
		}
	}
	if diff := cmp.Diff(want, colours.ReplaceAllString(coloured, "")); diff != "" {
		t.Errorf("in colour it says something else (-want +got)\n%s", diff)
	}
}

func TestTextOfLittle(t *testing.T) {
	today, tomorrow := twoDays(t)
	unknown := today
	unknown.Revision = ""
	for name, test := range map[string]struct {
		before, after Closure
		want          string
	}{
		"nothing but the commit": {today, Closure{Root: today.Root, Infos: today.Infos, Revision: tomorrow.Revision}, `no package changed

closure: 14 paths, 13.0 MiB
revision: 1f0c9d7c9f7d0c4b8c0d5e6f7a8b9c0d1e2f3a4b → 8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b
`},
		"no commit known": {unknown, unknown, `no package changed

closure: 14 paths, 13.0 MiB
`},
		"the same commit": {today, today, `no package changed

closure: 14 paths, 13.0 MiB
revision: 1f0c9d7c9f7d0c4b8c0d5e6f7a8b9c0d1e2f3a4b
`},
		"one path less": {today, Closure{Root: today.Root, Infos: today.Infos[1:], Revision: today.Revision}, `linux: -1024.0 KiB

closure: 14 → 13 paths, 13.0 MiB → 12.0 MiB, -1024.0 KiB
revision: 1f0c9d7c9f7d0c4b8c0d5e6f7a8b9c0d1e2f3a4b
`},
		"one commit known": {unknown, today, `no package changed

closure: 14 paths, 13.0 MiB
revision: unknown → 1f0c9d7c9f7d0c4b8c0d5e6f7a8b9c0d1e2f3a4b
`},
		"a single path": {Closure{}, Closure{Root: today.Root, Infos: today.Infos[:1]}, "closure: 1 path, 1024.0 KiB\n"},
		"the first": {Closure{}, today, `closure: 14 paths, 13.0 MiB
revision: 1f0c9d7c9f7d0c4b8c0d5e6f7a8b9c0d1e2f3a4b
`},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, Compare(test.before, test.after).Text(false)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestReboot(t *testing.T) {
	const system = "linux-6.12.30 linux-6.12.30-modules kernel-modules initrd-linux-6.12.30 systemd-257.6 etc system-path"
	before := closure(t, "nixos-system-web-1-25.05.1", words(system), words("linux-pam-1.6.1 nginx-1.28.0"))
	for name, test := range map[string]struct {
		references, others string
		want               []string
	}{
		"nothing":                          {system, "linux-pam-1.6.1 nginx-1.28.0", []string{}},
		"what is only named like a kernel": {system, "linux-pam-1.7.0 linux-headers-6.15 linux-firmware-20260221 nginx-1.28.0", []string{}},
		"another system in the closure":    {system, "linux-pam-1.6.1 nginx-1.28.0 linux-6.6.1 initrd-linux-6.6.1 systemd-258 systemd-minimal-258", []string{}},
		"what is only named like systemd":  {system + " systemd-boot systemd-units", "", []string{}},
		"the kernel":                       {strings.ReplaceAll(system, "6.12.30", "6.12.31"), "", []string{"kernel", "initrd"}},
		"its variant":                      {strings.ReplaceAll(system, "linux-6.12.30", "linux-zen-6.16.1"), "", []string{"kernel", "initrd"}},
		"further modules":                  {strings.ReplaceAll(system, "kernel-modules", "kernel-modules\trebuilt"), "", []string{"kernel"}},
		"the initrd":                       {strings.ReplaceAll(system, "initrd-linux-6.12.30", "initrd-linux-6.12.30\trebuilt"), "", []string{"initrd"}},
		"systemd":                          {strings.ReplaceAll(system, "257.6", "257.7"), "", []string{"systemd"}},
		"systemd, not its version":         {strings.ReplaceAll(system, "systemd-257.6", "systemd-257.6\trebuilt"), "", []string{"systemd"}},
		"no kernel of its own any more":    {"systemd-257.6 etc", "", []string{"kernel", "initrd"}},
	} {
		t.Run(name, func(t *testing.T) {
			var references []string
			for _, r := range strings.Split(test.references, " ") {
				references = append(references, strings.ReplaceAll(r, "\t", " "))
			}
			after := closure(t, "nixos-system-web-1-25.05.2", references, words(test.others))
			if diff := cmp.Diff(test.want, Compare(before, after).Reboot); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
	if c := Compare(Closure{}, before); len(c.Reboot) > 0 {
		t.Errorf("a first generation wants a reboot for %v", c.Reboot)
	}
}

func TestSummary(t *testing.T) {
	today, tomorrow := twoDays(t)
	sizeOnly := closure(t, "hello", words("source:10000"), nil)
	many := func(version string) Closure {
		var names []string
		for i := range 1000 {
			names = append(names, fmt.Sprintf("package%d-%s", i, version))
		}
		return closure(t, "nixos-system-web-1-25.05."+version, names, nil)
	}
	long := func(version string) Closure {
		return closure(t, "hello-1", []string{"a" + strings.Repeat("-very", 30) + "-long-name-" + version + strings.Repeat(".1", 20)}, nil)
	}
	for name, test := range map[string]struct {
		before, after Closure
		want          string
	}{
		"a day": {today, tomorrow, "reboot due (kernel, initrd); nixos-system-web: 1-25.05.1 → 1-25.05.2; come: ∅ → 1; gone: 1 → ∅; " +
			"initrd-linux: 6.12.30 → 6.12.31; libfoo: 1.2 → 1.3; linux: 6.12.30 → 6.12.31; 2 more"},
		"nothing":     {today, today, "no package changed"},
		"only a size": {closure(t, "hello", words("source:1000"), nil), sizeOnly, "source: +8.8 KiB"},
		"the first":   {Closure{}, today, ""},
		"many": {many("1"), many("2"), "nixos-system-web: 1-25.05.1 → 1-25.05.2; package0: 1 → 2; package1: 1 → 2; " +
			"package10: 1 → 2; package100: 1 → 2; package101: 1 → 2; package102: 1 → 2; package103: 1 → 2; 993 more"},
		"too long to name": {long("1"), long("2"), "changed packages: 1"},
	} {
		t.Run(name, func(t *testing.T) {
			got := Compare(test.before, test.after).Summary()
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if len(got) > MaxSummary || !utf8.ValidString(got) {
				t.Errorf("it has %d bytes: %q", len(got), got)
			}
		})
	}
}

func TestFormatSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0:             "0.0 KiB",
		1:             "0.0 KiB",
		100:           "0.1 KiB",
		-100:          "-0.1 KiB",
		12698:         "12.4 KiB",
		1 << 20:       "1024.0 KiB",
		1025 << 10:    "1.0 MiB",
		1089234568:    "1.0 GiB",
		-1089234568:   "-1.0 GiB",
		3 << 40:       "3.0 TiB",
		-1 << 63:      "-8.0 EiB",
		1<<63 - 1:     "8.0 EiB",
		(1 << 30) - 1: "1024.0 MiB",
	} {
		if got := formatSize(bytes); got != want {
			t.Errorf("%d bytes are %q, want %q", bytes, got, want)
		}
	}
}
