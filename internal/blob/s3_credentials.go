package blob

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"

	"github.com/nixos-closure/nixos-closure-resource/internal/blob/retry"
	"github.com/nixos-closure/nixos-closure-resource/internal/hint"
)

// s3Credentials returns what the configuration asks for, and never more than
// that: credentials that happen to lie around belong to the machine that we
// run on, which is not the user's where Concourse is shared.
func s3Credentials(ctx context.Context, l s3Location, config Config, client *http.Client) (aws.CredentialsProvider, error) {
	var provider aws.CredentialsProvider
	switch {
	case config.AccessKeyID != "" && config.SecretAccessKey != "":
		provider = credentials.NewStaticCredentialsProvider(config.AccessKeyID, config.SecretAccessKey, config.SessionToken)
	case config.AccessKeyID != "" || config.SecretAccessKey != "" || config.SessionToken != "":
		return nil, errors.New("access_key_id and secret_access_key are only good together")
	case config.EnableAWSCredsProviderChain:
		chain, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(l.region), awsconfig.WithSharedConfigProfile(l.profile), awsconfig.WithLogger(logging.Nop{}))
		if err != nil {
			return nil, fmt.Errorf("reading the configuration of the AWS credentials' provider chain: %w", err)
		}
		provider = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
			found, err := chain.Credentials.Retrieve(ctx)
			if err == nil || ctx.Err() != nil {
				return found, err
			}
			// It has tried again by itself. What it couldn't reach is not S3.
			return found, retry.Permanent(hint.With(fmt.Errorf("the AWS credentials' provider chain found none: %v", err),
				"set access_key_id and secret_access_key, or leave out enable_aws_creds_provider_chain for a public bucket"))
		})
	case config.AWSRoleARN != "":
		return nil, hint.With(errors.New("aws_role_arn needs credentials to assume the role with"), "set access_key_id and secret_access_key, or enable_aws_creds_provider_chain")
	default:
		return aws.AnonymousCredentials{}, nil
	}
	if config.AWSRoleARN != "" {
		provider = assumedRole(provider, l, config, client)
	}
	return aws.NewCredentialsCache(provider), nil
}

// assumedRole asks Amazon's token service in the region for credentials; or,
// where the endpoint is a server of another kind, that server, as MinIO and
// Ceph have it.
func assumedRole(provider aws.CredentialsProvider, l s3Location, config Config, client *http.Client) aws.CredentialsProvider {
	options := sts.Options{
		Region:      l.region,
		Credentials: provider,
		HTTPClient:  client,
		Retryer:     aws.NopRetryer{},
		Logger:      logging.Nop{},
	}
	if u, err := url.Parse(l.endpoint); err == nil && l.endpoint != "" && !strings.Contains(u.Hostname()+".", ".amazonaws.com.") {
		options.BaseEndpoint = &l.endpoint
	}
	return stscreds.NewAssumeRoleProvider(sts.New(options), config.AWSRoleARN, func(o *stscreds.AssumeRoleOptions) {
		o.RoleSessionName = product
	})
}
