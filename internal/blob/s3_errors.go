package blob

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// explain returns an error of the SDK, met when doing action with key, as one
// that says what it means and what to do.
func (s *S3) explain(err error, action, key string) error {
	if err == nil {
		return nil
	}
	status := statusOf(err)
	if status == 0 {
		return explainConnection(err, s.location.server())
	}
	code, message := http.StatusText(status), ""
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() != "" {
		code, message = api.ErrorCode(), api.ErrorMessage()
	}
	if status == http.StatusNotFound && code == "NotFound" && message == http.StatusText(status) {
		// The SDK has made that of the status alone. The answer to a HEAD has no
		// more; any other of an S3 server would have a code.
		if methodOf(err) != http.MethodHead {
			return hint.With(&remoteError{text: fmt.Sprintf("%s answers %d without a code of S3", s.location.server(), status), cause: err},
				"is it an S3 server, and the endpoint in the cache's URL right?")
		}
	}
	if unread := new(smithy.DeserializationError); status/100 == 2 && errors.As(err, &unread) {
		return &remoteError{text: fmt.Sprintf("reading the answer of %s: %v", s.location.server(), unread.Err), cause: err}
	}
	explained := &remoteError{
		text:  fmt.Sprintf("%s answers %d %s", s.location.server(), status, code),
		kind:  kindOf(status, code),
		cause: err,
	}
	if message != "" && message != http.StatusText(status) {
		explained.text += ": " + strings.TrimSuffix(message, ".")
	}
	if advice := s.advice(err, code, action, key); advice != "" {
		return hint.With(explained, "%s", advice)
	}
	return explained
}

// advice says what to do about an answer of S3, if there is something.
func (s *S3) advice(err error, code, action, key string) string {
	var answer *smithyhttp.ResponseError
	errors.As(err, &answer)
	header := answer.Response.Header
	if region := header.Get("X-Amz-Bucket-Region"); region != "" && region != s.location.region {
		return fmt.Sprintf("the bucket %s is in another region: write region=%s into the cache's URL", s.location.bucket, region)
	}
	switch code {
	case "NoSuchBucket":
		return fmt.Sprintf("there is no bucket %s at %s: create it, or correct its name, the endpoint or the region in the cache's URL", s.location.bucket, s.location.server())
	case "PermanentRedirect", "TemporaryRedirect", "MovedPermanently", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return fmt.Sprintf("%s is not the region of the bucket %s: correct region=… in the cache's URL", s.location.region, s.location.bucket)
	case "RequestTimeTooSkewed":
		return fmt.Sprintf("set this machine's clock: it says %s, and the server's says %s", time.Now().UTC().Format(http.TimeFormat), header.Get("Date"))
	case "InvalidAccessKeyId", "InvalidClientTokenId":
		return fmt.Sprintf("%s doesn't know the access_key_id", s.location.server())
	case "SignatureDoesNotMatch":
		return "the secret_access_key doesn't belong to the access_key_id (or a proxy changes requests on their way)"
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired":
		return "the session_token has expired: get new credentials"
	case "InvalidToken", "InvalidTokenId":
		return "the session_token doesn't belong to the access_key_id"
	}
	if kindOf(answer.HTTPStatusCode(), code) != ErrPermission {
		return ""
	}
	var operation *smithy.OperationError
	for e := err; errors.As(e, &operation); e = operation.Err {
		if operation.ServiceID == "STS" {
			return fmt.Sprintf("allow the credentials sts:AssumeRole on %s, and the role to trust them", s.config.AWSRoleARN)
		}
	}
	resource := "arn:aws:s3:::" + s.location.bucket
	if action != "s3:ListBucket" {
		resource += "/" + inPolicies(*s.objectKey(key))
	}
	advice := fmt.Sprintf("allow %s on %s", action, resource)
	if s.anonymous {
		advice = fmt.Sprintf("the request was anonymous: set access_key_id and secret_access_key, or allow everybody %s on %s", action, resource)
	}
	if action == "s3:GetObject" {
		advice += "; without s3:ListBucket on the bucket, S3 says the same of an object that doesn't exist"
	}
	return advice + "; docs/permissions.md has whole policies"
}

// oneOfMany is the name of an object that has a hash or a random word in it, or a
// number that grows.
var oneOfMany = regexp.MustCompile("[0-9a-df-np-sv-z]{32}|^[0-9]+[.]json$")

// inPolicies is how a policy names an object and all others of its kind.
func inPolicies(key string) string {
	dir, name := path.Split(key)
	switch {
	case strings.HasSuffix(name, ".narinfo"):
		return dir + "*.narinfo"
	case oneOfMany.MatchString(name):
		return dir + "*"
	}
	return key
}

// methodOf returns the method of the request that err is the answer to.
func methodOf(err error) string {
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) && answer.Response.Request != nil {
		return answer.Response.Request.Method
	}
	return ""
}

// codeOf returns the error code of S3 that err is about, if any.
func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}
