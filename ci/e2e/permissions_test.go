package e2e_test

import (
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
	"github.com/nixos-closure/nixos-closure-resource/internal/nixtest"
)

// With the policies of docs/permissions.md, as they stand there, each party can
// do its whole job, and not another's.
func TestPermissions(t *testing.T) {
	t.Parallel()
	testPermissions(t, s3test.Versitygw)
}

func TestPermissionsOnMinIO(t *testing.T) { testPermissions(t, s3test.MinIO) }

func testPermissions(t *testing.T, start func(testing.TB) *s3test.Server) {
	policies := s3test.Policies(t)
	t.Run("as they stand", func(t *testing.T) {
		b := newBusiness(t, start(t), policies)
		b.wantDone(t, b.jobs())
		b.wantDone(t, b.years())
		b.wantForbidden(t)
	})
	t.Run("for one pointer", func(t *testing.T) {
		policies := maps.Clone(policies)
		policies["promoter"] = forOnePointer(t, policies["promoter"])
		b := newBusiness(t, start(t), policies)
		b.wantDone(t, b.jobs())
		b.wantDone(t, b.years())
		if err := b.promote("web-2", b.newest); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("the promoter of web-1 has moved web-2: %v", err)
		}
	})
	t.Run("for everybody", func(t *testing.T) {
		b := newBusiness(t, start(t), policies)
		b.wantDone(t, b.jobs())
		public := policies["reader"]
		public.Statement = slices.Clone(public.Statement)
		for i := range public.Statement {
			public.Statement[i].Principal = "*"
		}
		b.server.SetPolicy(t, b.bucket, public.Text(t, b.bucket))
		for _, url := range (bucket{b.server, b.bucket, b.server.URL}).substituters(b.nix) {
			realise(t, url, b.key, b.nix, b.newest.Path)
		}
		b.parties["reader"] = blob.Config{}
		b.wantDone(t, b.readersJobs("reader"))
	})
}

// Nothing is permitted that nobody needs: without any one permission, a job
// fails.
func TestPermissionsAreNeeded(t *testing.T) {
	t.Parallel()
	policies := s3test.Policies(t)
	policies["promoter for one pointer"] = forOnePointer(t, policies["promoter"])
	for name, policy := range policies {
		party, _, forOne := strings.Cut(name, " ")
		for i, statement := range policy.Statement {
			if forOne && statement.Sid != "PromoterMovesPointers" {
				continue
			}
			for _, action := range list(statement.Action) {
				for _, resource := range list(statement.Resource) {
					switch {
					case statement.Effect == "Deny":
						continue
					case action == "s3:ListBucket": // which matters to Amazon only
						continue
					case action == "s3:AbortMultipartUpload": // which uploads need that fail
						continue
					case statement.Sid == "HostReports": // which nothing does yet
						continue
					}
					t.Run(statement.Sid+" "+action+" "+resource[strings.LastIndex(resource, ":")+1:], func(t *testing.T) {
						less := policy
						less.Statement = slices.Delete(slices.Clone(policy.Statement), i, i+1)
						for _, a := range list(statement.Action) {
							for _, r := range list(statement.Resource) {
								if a != action || r != resource {
									rest := statement
									rest.Action, rest.Resource = a, r
									less.Statement = append(less.Statement, rest)
								}
							}
						}
						policies := s3test.Policies(t)
						policies[party] = less
						b := newBusiness(t, s3test.Versitygw(t), policies)
						jobs := b.jobs()
						if forOne {
							jobs = append(jobs, b.years()...)
						}
						for _, job := range jobs {
							if err := job.do(); err != nil {
								if job.party != party {
									t.Fatalf("%s: %v", job.party, err)
								}
								return
							}
						}
						t.Errorf("the %s does without", name)
					})
				}
			}
		}
	}
}

// list is what S3 takes for a string or a list of them.
func list(value any) (texts []string) {
	if text, ok := value.(string); ok {
		return []string{text}
	}
	for _, element := range value.([]any) {
		texts = append(texts, element.(string))
	}
	return texts
}

// forOnePointer is the promoter's policy with the resources that the page says
// to write for one pointer.
func forOnePointer(t *testing.T, policy s3test.Policy) s3test.Policy {
	t.Helper()
	page := strings.Join(strings.Fields(s3test.PermissionsPage(t)), " ")
	text := regexp.MustCompile("For one pointer alone, write (.*?) in place of `pointers/\\*` and `changes/\\*`").FindStringSubmatch(page)
	if text == nil {
		t.Fatal("docs/permissions.md doesn't say how a policy for one pointer is written")
	}
	var resources []any
	for _, key := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(text[1], -1) {
		resources = append(resources, "arn:aws:s3:::nix-cache/"+key[1])
	}
	policy.Statement = slices.Clone(policy.Statement)
	for i, statement := range policy.Statement {
		if statement.Sid == "PromoterMovesPointers" {
			policy.Statement[i].Resource = resources
		}
	}
	return policy
}

// A business is a bucket and those who share it, each with what a policy permits.
type business struct {
	*rig
	server  *s3test.Server
	bucket  string
	parties map[string]blob.Config
	dir     string  // for what is got
	newest  version // of the candidate
}

func newBusiness(t *testing.T, server *s3test.Server, policies map[string]s3test.Policy) *business {
	t.Helper()
	b := &business{rig: newRig(t, nixtest.Current(t), nil), server: server, bucket: server.Bucket(t), dir: nixtest.TempDir(t)}
	b.parties = server.Parties(t, b.bucket, policies)
	return b
}

// A job is what a party does. It fails also if something goes wrong that only
// its log tells of.
type job struct {
	party, what string
	do          func() error
}

func (b *business) wantDone(t *testing.T, jobs []job) {
	t.Helper()
	for _, job := range jobs {
		if err := job.do(); err != nil {
			t.Fatalf("the %s can't do its job, to %s: %v", job.party, job.what, err)
		}
	}
}

// jobs are what the parties do, in their order.
func (b *business) jobs() []job {
	motd := filepath.Join(b.sources, "config", "motd")
	jobs := []job{
		{"builder", "build and push the first system", b.build},
		{"promoter", "promote it", func() error { return b.promote("web-1", b.newest) }},
		{"builder", "build and push the next one", func() error {
			if err := os.WriteFile(motd, []byte("The second day.\n"), 0o644); err != nil {
				return err
			}
			return b.build()
		}},
		{"promoter", "promote that", func() error { return b.promote("web-1", b.newest) }},
		{"promoter", "go back", func() error { return b.command("promoter", "rollback", "web-1") }},
	}
	return slices.Concat(jobs, b.readersJobs("reader"), b.readersJobs("host"))
}

// readersJobs are what a party does that only reads.
func (b *business) readersJobs(party string) []job {
	jobs := []job{{party, "check", func() error {
		_, err := callFor[[]version](b, "check", "", party, map[string]any{"version": nil})
		return err
	}}}
	for _, format := range []string{"rootfs", "cache"} {
		jobs = append(jobs, job{party, "get a " + format, func() error {
			_, err := b.get(party, b.newest, format)
			return err
		}})
	}
	fetched := func() string { return filepath.Join(b.dir, rand.Text()) }
	for _, args := range [][]string{
		{"history", "web-1"}, {"show", "web-1:1"}, {"diff", "web-1:1", "web-1:2"}, {"verify", "--deep", "--all", "web-1"},
		{"fetch", "--format", "archive", "web-1-candidate", fetched()},
	} {
		jobs = append(jobs, job{party, args[0], func() error { return b.command(party, args...) }})
	}
	return jobs
}

// years are so many promotions that old generations leave the history.
func (b *business) years() []job {
	return slices.Repeat([]job{
		{"promoter", "go forth", func() error { return b.command("promoter", "rollback", "--to", "2", "web-1") }},
		{"promoter", "and back", func() error { return b.command("promoter", "rollback", "--to", "1", "web-1") }},
	}, 26)
}

func (b *business) wantForbidden(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.sources, "config", "motd"), []byte("The third day.\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ party, want string }{
		{"promoter", "hint: allow s3:PutObject on arn:aws:s3:::" + b.bucket + "/nar/*"},
		{"reader", "hint: allow s3:PutObject on arn:aws:s3:::" + b.bucket + "/leases/*"},
		{"host", "hint: allow s3:PutObject on arn:aws:s3:::" + b.bucket + "/leases/*"},
	} {
		err := b.buildAs(test.party)
		if err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("a %s that pushes: want %q, got %v", test.party, test.want, err)
		}
	}
	for _, party := range []string{"reader", "host"} {
		if err := b.command(party, "rollback", "--to", "2", "web-1"); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("a %s that moves a pointer: want 403, got %v", party, err)
		}
	}
}

// as is a source with the credentials of a party, and the key that it has.
func (b *business) as(party, pointer string) map[string]any {
	config := b.parties[party]
	source := map[string]any{"cache": s3test.CacheAt(b.server.URL, b.bucket).String(), "pointer": pointer}
	for key, value := range map[string]string{
		"access_key_id": config.AccessKeyID, "secret_access_key": config.SecretAccessKey, "session_token": config.SessionToken,
	} {
		if value != "" {
			source[key] = value
		}
	}
	if party == "reader" || party == "host" {
		source["trusted_public_keys"] = b.key.Public
	} else {
		source["signing_key"] = b.key.Secret
	}
	return source
}

// callFor calls one of our programs for a party.
func callFor[T any](b *business, program, dir, party string, request map[string]any) (T, error) {
	if request["source"] == nil {
		request["source"] = b.as(party, "web-1-candidate")
	}
	var said strings.Builder
	value, err := answerSaying[T](call(program, dir, b.store.Env(), request), &said)
	if err == nil && strings.Contains(said.String(), "warning:") {
		err = fmt.Errorf("%s warns:\n%s", program, &said)
	}
	return value, err
}

func (b *business) build() error { return b.buildAs("builder") }

func (b *business) buildAs(party string) error {
	source := b.as(party, "web-1-candidate")
	source["build_logs"] = true
	source["signing_key"] = b.key.Secret
	answer, err := callFor[put](b, "out", b.sources, party, map[string]any{
		"source": source, "params": map[string]any{"file": "config/default.nix", "attribute": "web-1"},
	})
	if err == nil {
		b.newest = answer.Version
	}
	return err
}

func (b *business) get(party string, v version, format string) (dir string, err error) {
	if dir, err = os.MkdirTemp(b.dir, party); err != nil {
		return "", err
	}
	_, err = callFor[put](b, "in", dir, party, map[string]any{"version": v, "params": map[string]any{"format": format}})
	return dir, err
}

// promote promotes a candidate, as a job would that has got it.
func (b *business) promote(pointer string, v version) error {
	dir, err := b.get("promoter", v, "none")
	if err != nil {
		return err
	}
	input := filepath.Join(b.sources, "candidate")
	os.RemoveAll(input)
	if err := os.CopyFS(input, os.DirFS(dir)); err != nil {
		return err
	}
	_, err = callFor[put](b, "out", b.sources, "promoter", map[string]any{
		"source": b.as("promoter", pointer), "params": map[string]any{"promote": "candidate"},
	})
	return err
}

// command runs nixos-closure for a party, where there is no Nix.
func (b *business) command(party string, args ...string) error {
	cmd := exec.Command(filepath.Join(programs(), "nixos-closure"), args...)
	cmd.Dir = b.dir
	source := b.as(party, "web-1")
	if args[0] == "rollback" {
		source["signing_key"] = b.key.Secret // whoever it is
	}
	for key, value := range source {
		cmd.Env = append(cmd.Env, "NIXOS_CLOSURE_"+strings.ToUpper(key)+"="+value.(string))
	}
	out, err := cmd.CombinedOutput()
	if err == nil && strings.Contains(string(out), "warning:") {
		err = fmt.Errorf("a warning")
	}
	if err != nil {
		return fmt.Errorf("nixos-closure %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
