package s3test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
)

// A Policy says who may do what with a bucket, as S3 has it.
type Policy struct {
	Version   string
	Statement []Statement
}

// A Statement is one of a policy. Actions and resources are strings, or lists of
// them.
type Statement struct {
	Sid, Effect      string
	Principal        any `json:",omitempty"`
	Action, Resource any
}

// Policies are those of docs/permissions.md, by party.
func Policies(t testing.TB) map[string]Policy {
	t.Helper()
	found := make(map[string]Policy)
	for _, block := range regexp.MustCompile("(?ms)^```json (\\w+)$(.*?)^```$").FindAllStringSubmatch(PermissionsPage(t), -1) {
		var policy Policy
		decoder := json.NewDecoder(strings.NewReader(block[2]))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&policy); err != nil {
			t.Fatalf("docs/permissions.md: the policy of %s: %v", block[1], err)
		}
		found[block[1]] = policy
	}
	return found
}

// PermissionsPage is the text of docs/permissions.md.
func PermissionsPage(t testing.TB) string {
	t.Helper()
	root, err := checkout()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "permissions.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Text is a policy for that bucket, in JSON, with the users of this server for
// principals.
func (p Policy) Text(t testing.TB, bucket string) string {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("arn:aws:iam::111122223333:user/", "", "nix-cache", bucket).Replace(string(text))
}

// Parties returns credentials for each party that may do with the bucket, alone,
// what its policy permits. On a versitygw these are users, who are called as in
// the policy, and the bucket has one policy with all the statements. On a MinIO
// they are sessions, each with its policy, less the principals.
func (s *Server) Parties(t testing.TB, bucket string, policies map[string]Policy) map[string]blob.Config {
	t.Helper()
	parties := make(map[string]blob.Config)
	if s.name == "minio" {
		for party, policy := range policies {
			policy.Statement = slices.Clone(policy.Statement)
			for i := range policy.Statement {
				policy.Statement[i].Principal = nil
			}
			parties[party] = s.session(t, policy.Text(t, bucket))
		}
		return parties
	}
	all := Policy{Version: "2012-10-17"}
	for _, party := range slices.Sorted(maps.Keys(policies)) {
		parties[party] = s.User(t, party)
		all.Statement = append(all.Statement, policies[party].Statement...)
	}
	s.SetPolicy(t, bucket, all.Text(t, bucket))
	return parties
}

// session returns credentials that may do what a policy permits.
func (s *Server) session(t testing.TB, policy string) blob.Config {
	t.Helper()
	client := sts.New(sts.Options{
		Region: "us-east-1", BaseEndpoint: &s.URL,
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKeyID, s.SecretAccessKey, ""),
	})
	role, name := "arn:minio:iam:::role/any", "party"
	assumed, err := client.AssumeRole(context.Background(), &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: &name, Policy: &policy})
	if err != nil {
		t.Fatalf("a session with the policy %s: %v", policy, err)
	}
	c := assumed.Credentials
	return blob.Config{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}
}
