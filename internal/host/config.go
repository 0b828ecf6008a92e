package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
	"github.com/nixos-closure/nixos-closure-resource/internal/nix"
	"github.com/nixos-closure/nixos-closure-resource/internal/report"
)

// A Config is how a host follows, as its JSON file has it. The defaults are right
// for NixOS.
type Config struct {
	Name   string `json:"name"`   // this host's; default: its host name
	System string `json:"system"` // what it can run; default: what this program was made for
	Mode   Mode   `json:"mode"`   // default: switch

	// Where things are.
	StateDir string   `json:"state_directory"` // default: /var/lib/nixos-closure
	GCRoots  string   `json:"gc_roots"`        // a directory that Nix looks into; default: /nix/var/nix/gcroots/nixos-closure
	Profile  string   `json:"profile"`         // default: /nix/var/nix/profiles/system
	Running  string   `json:"running"`         // a link to what runs; default: /run/current-system
	Booted   string   `json:"booted"`          // a link to what was booted; default: /run/booted-system
	Boot     []string `json:"boot"`            // file systems with boot files; default: those of /boot, /boot/efi and /efi that there are

	// Reboot says whether the machine may be rebooted for a trial, and how.
	Reboot        Reboot   `json:"reboot"`         // default: never
	RebootCommand []string `json:"reboot_command"` // boots what the machine boots by default; default: systemctl reboot

	// Activate is a command that gets a store path and test, boot, boot-once
	// or dry-activate as its last two arguments. After test, Running leads to the
	// path; after boot, the machine boots it by default; boot-once reboots into it,
	// and leaves the default alone. Default: the path's own
	// bin/switch-to-configuration.
	Activate          []string `json:"activate"`
	ActivationTimeout Duration `json:"activation_timeout"` // of one activation, which is repeated once; default: 10m
	Deadline          Duration `json:"deadline"`           // when a trial is ended that has had no verdict; default: what all that it may take adds up to

	Health Health `json:"health"`

	Spread   Duration `json:"spread"`    // how long hosts take, all together, to act on a new generation; default: 0s
	MaxSkew  Duration `json:"max_skew"`  // how far this clock may be behind; default: 5m
	KeepFree int64    `json:"keep_free"` // bytes that must stay free where the store is; default: 256 MiB

	MetricsFile string   `json:"metrics_file"` // for node_exporter's textfile collector, such as /var/lib/…/nixos_closure.prom
	Post        []string `json:"post"`         // a command that is run when a run has come to something else than the one before
	Report      bool     `json:"report"`       // write what this host runs to the cache, signed; default: false
	ReportEvery Duration `json:"report_every"` // at least so often, even if nothing has changed; default: 1h
	Units       string   `json:"units"`        // who keeps what outlives a run: systemd or process; default: systemd where it runs
}

// Health is when a system is well.
type Health struct {
	Required     []Check  `json:"required"`
	Wanted       []Check  `json:"wanted"`       // if they are red, that is told, and no more
	Connectivity bool     `json:"connectivity"` // the cache must be reachable by a new connection; default: true
	Patience     Duration `json:"patience"`     // how long the cache and the watched units may take to be well; default: 1m
	Watch        []string `json:"watch"`        // units that must run, and go on running without a restart
	Soak         Duration `json:"soak"`         // how long all must stay well; default: 60s
}

// A Check is a command that exits with 0 if something is well.
type Check struct {
	Name    string   `json:"name"` // default: the command
	Command []string `json:"command"`
	Timeout Duration `json:"timeout"` // how long it may take to become green; it is repeated until then; default: 30s
}

// A Mode is what is done with a new system. Its text doesn't change.
type Mode string

const (
	Switch      Mode = "switch"       // run it; once it is proven, boot it, too
	Boot        Mode = "boot"         // boot it, once; if it is proven then, go on booting it
	Test        Mode = "test"         // run it until the next boot
	DryActivate Mode = "dry-activate" // say what would be done
)

// A Reboot is a way to boot a system once, while the machine goes on booting
// another one by default. Its text doesn't change.
type Reboot string

const (
	Never Reboot = "never" // the machine is not rebooted
	Kexec Reboot = "kexec" // by kexec, which touches no boot file
)

// A Duration is written like 90s, 10m, 24h or 7d.
type Duration time.Duration

// UnmarshalText reads one.
func (d *Duration) UnmarshalText(text []byte) error {
	s, scale := string(text), time.Duration(1)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		s, scale = days+"h", 24
	}
	parsed, err := time.ParseDuration(s)
	if err != nil || parsed < 0 {
		return hint.With(fmt.Errorf("%q is not a duration", text), "write it like 90s, 10m, 24h or 7d")
	}
	*d = Duration(parsed * scale)
	return nil
}

// MarshalText writes one.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is d as it may be written.
func (d Duration) String() string { return time.Duration(d).String() }

// Defaults are what holds where a setting is not said.
func Defaults() Config {
	return Config{
		System:            map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + "-" + runtime.GOOS,
		Mode:              Switch,
		Reboot:            Never,
		RebootCommand:     []string{"systemctl", "reboot"},
		StateDir:          "/var/lib/nixos-closure",
		GCRoots:           "/nix/var/nix/gcroots/nixos-closure",
		Profile:           "/nix/var/nix/profiles/system",
		Running:           "/run/current-system",
		Booted:            "/run/booted-system",
		Boot:              []string{"/boot", "/boot/efi", "/efi"},
		ActivationTimeout: Duration(10 * time.Minute),
		Health:            Health{Connectivity: true, Patience: Duration(time.Minute), Soak: Duration(time.Minute)},
		MaxSkew:           Duration(5 * time.Minute),
		ReportEvery:       Duration(time.Hour),
		KeepFree:          256 << 20,
	}
}

// ParseConfig reads a Config in JSON over the defaults, and checks it.
func ParseConfig(data []byte) (Config, error) {
	c := Defaults()
	if len(data) > 0 {
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&c); err != nil {
			return Config{}, hint.With(fmt.Errorf("the host's settings: %s", strings.TrimPrefix(err.Error(), "json: ")),
				"docs/hosts.md lists them all")
		}
	}
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return Config{}, err
		}
		c.Name = name
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("the host's settings: %w", err)
	}
	return c, nil
}

// WithMode is c with another mode.
func (c Config) WithMode(mode Mode) (Config, error) {
	c.Mode = mode
	return c, c.check()
}

// check says what is wrong with c, and gives health checks their defaults.
func (c *Config) check() error {
	names := map[string]bool{}
	for _, checks := range [][]Check{c.Health.Required, c.Health.Wanted} {
		for i := range checks {
			check := &checks[i]
			if len(check.Command) == 0 {
				return errors.New("a health check has no command")
			}
			if check.Name == "" {
				check.Name = strings.Join(check.Command, " ")
			}
			if check.Timeout == 0 {
				check.Timeout = Duration(30 * time.Second)
			}
			if names[check.Name] {
				return fmt.Errorf("there are two health checks called %q", check.Name)
			}
			names[check.Name] = true
		}
	}
	for _, path := range []string{c.StateDir, c.GCRoots, c.Profile, c.Running, c.Booted} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%q is not an absolute path", path)
		}
	}
	if c.Report && !report.ValidHost(c.Name) {
		return hint.With(fmt.Errorf("%q can't be a host's name in a report", c.Name),
			"name: says another one, of letters, digits, dots, dashes and underscores")
	}
	if c.Report && c.ReportEvery == 0 {
		return errors.New("report_every can't be 0s")
	}
	switch c.Mode {
	case Switch, Boot, Test, DryActivate:
	default:
		return hint.With(fmt.Errorf("there is no mode %q", c.Mode), "want switch, boot, test or dry-activate")
	}
	switch c.Reboot {
	case Kexec:
	case Never:
		if c.Mode == Boot {
			return hint.With(errors.New("mode boot reboots the machine for each generation, and reboot says never"), "set reboot to kexec")
		}
	default:
		return hint.With(fmt.Errorf("the machine can't be rebooted by %q", c.Reboot), "want never or kexec")
	}
	if len(c.RebootCommand) == 0 {
		return errors.New("reboot_command is empty")
	}
	switch c.Units {
	case "", unitsSystemd, unitsProcess:
		return nil
	default:
		return hint.With(fmt.Errorf("units can't be kept by %q", c.Units), "want systemd or process")
	}
}

// activation is the command that does something with a system.
func (c *Config) activation(path nix.StorePath, action string) []string {
	if len(c.Activate) == 0 {
		return []string{path.String() + "/bin/switch-to-configuration", action}
	}
	return append(c.Activate[:len(c.Activate):len(c.Activate)], path.String(), action)
}

// deadline is how long a trial may take until its verdict, with all that may be
// repeated.
func (c *Config) deadline() time.Duration {
	if c.Deadline != 0 {
		return time.Duration(c.Deadline)
	}
	longest := time.Duration(c.Health.Patience)
	for _, checks := range [][]Check{c.Health.Required, c.Health.Wanted} {
		for _, check := range checks {
			longest = max(longest, time.Duration(check.Timeout))
		}
	}
	return 2*time.Duration(c.ActivationTimeout) + 2*longest + time.Duration(c.Health.Soak) + time.Minute
}
