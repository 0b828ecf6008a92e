package blob_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob"
	"github.com/nixos-closure/nixos-closure-resource/internal/blob/s3test"
)

// TestS3Credentials looks at whom a request is signed by.
func TestS3Credentials(t *testing.T) {
	// What lies around on the machine is only for those who ask for it.
	t.Setenv("AWS_ACCESS_KEY_ID", "machine")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "machine's secret")
	t.Setenv("AWS_SESSION_TOKEN", "machine's token")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	files := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(files, []byte("[ci]\naws_access_key_id = profile\naws_secret_access_key = profile's secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", files)

	static := blob.Config{AccessKeyID: "static", SecretAccessKey: "secret"}
	for _, test := range []struct {
		name       string
		parameters string
		config     blob.Config
		key, token string
	}{
		{"anonymous", "", blob.Config{}, "", ""},
		{"anonymous, in spite of the profile", "profile=ci", blob.Config{}, "", ""},
		{"static", "", static, "static", ""},
		{"session", "", blob.Config{AccessKeyID: "static", SecretAccessKey: "secret", SessionToken: "token"}, "static", "token"},
		{"static before the chain", "", blob.Config{AccessKeyID: "static", SecretAccessKey: "secret", EnableAWSCredsProviderChain: true}, "static", ""},
		{"chain", "", blob.Config{EnableAWSCredsProviderChain: true}, "machine", "machine's token"},
		{"profile", "profile=ci", blob.Config{EnableAWSCredsProviderChain: true}, "profile", ""},
		{"role", "", blob.Config{AccessKeyID: "static", SecretAccessKey: "secret", AWSRoleARN: "arn:aws:iam::1:role/ci"}, "assumed", "assumed token"},
		{"role by the chain", "", blob.Config{EnableAWSCredsProviderChain: true, AWSRoleARN: "arn:aws:iam::1:role/ci"}, "assumed", "assumed token"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake := &fakeS3{answer: assumeRole}
			server := httptest.NewServer(fake)
			defer server.Close()
			u := s3test.CacheAt(server.URL, "bucket")
			u.RawQuery += "&region=eu-central-1&" + test.parameters
			store := openStore(t, u, test.config)
			_, err := store.Put(t.Context(), "object", strings.NewReader("x"), blob.PutOptions{})
			if err != nil {
				t.Fatal(err)
			}
			requests := fake.asked()
			request := requests[len(requests)-1]
			_, credential, _ := strings.Cut(request.Header.Get("Authorization"), "Credential=")
			key, scope, _ := strings.Cut(credential, "/")
			if token := request.Header.Get("X-Amz-Security-Token"); key != test.key || token != test.token {
				t.Errorf("signed by %q with the token %q, want %q and %q", key, token, test.key, test.token)
			}
			if key != "" && !strings.Contains(scope, "/eu-central-1/s3/") {
				t.Errorf("signed for %s", scope)
			}
		})
	}
	for name, config := range map[string]blob.Config{
		"half of a pair":       {AccessKeyID: "key"},
		"the other half":       {SecretAccessKey: "secret"},
		"a token alone":        {SessionToken: "token"},
		"a role and no way in": {AWSRoleARN: "arn:aws:iam::1:role/ci"},
	} {
		if _, err := blob.Open(t.Context(), s3test.CacheAt("http://localhost", "bucket"), config); err == nil {
			t.Errorf("%s is enough", name)
		}
	}
}

// assumeRole answers for the token service.
func assumeRole(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
		<AccessKeyId>assumed</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>assumed token</SessionToken><Expiration>%s</Expiration>
		</Credentials></AssumeRoleResult></AssumeRoleResponse>`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	return true
}

func TestS3NoCredentialsInTheChain(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1") // where nobody listens
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	store := openStore(t, s3test.CacheAt("http://localhost", "bucket"), blob.Config{EnableAWSCredsProviderChain: true})
	begin := time.Now()
	_, err := store.Get(t.Context(), "object", blob.GetOptions{})
	wantExplained(t, err, nil, "set access_key_id and secret_access_key")
	if !strings.Contains(err.Error(), "provider chain found none") {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v to find none", took)
	}
}

// TestS3ForbiddenRole is refused by the token service, not by the bucket.
func TestS3ForbiddenRole(t *testing.T) {
	fake := &fakeS3{answer: func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not authorized</Message></Error></ErrorResponse>`)
		return true
	}}
	server := httptest.NewServer(fake)
	defer server.Close()
	store := openStore(t, s3test.CacheAt(server.URL, "bucket"), blob.Config{AccessKeyID: "key", SecretAccessKey: "s3cr3t", AWSRoleARN: "arn:aws:iam::1:role/ci"})
	_, err := store.Get(t.Context(), "object", blob.GetOptions{})
	wantExplained(t, err, blob.ErrPermission, "allow the credentials sts:AssumeRole on arn:aws:iam::1:role/ci", "s3cr3t")
}

// TestS3RoleOfMinIO assumes a role where the server is its own token service.
func TestS3RoleOfMinIO(t *testing.T) {
	server := s3test.MinIO(t)
	bucket, config := server.Bucket(t), server.Config()
	config.AWSRoleARN = "arn:minio:iam:::role/any"
	store := openStore(t, server.Cache(bucket), config)
	if _, err := store.Put(t.Context(), "object", strings.NewReader("x"), blob.PutOptions{IfAbsent: true}); err != nil {
		t.Error(err)
	}
}
