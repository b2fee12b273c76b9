package main

import (
	"fmt"

	managedidentity "example.com/fetch-secret/bindings/imports/cloud_identity_managed_identity"
	tokenclaims "example.com/fetch-secret/bindings/imports/cloud_identity_token_claims"
	identity "example.com/fetch-secret/bindings/imports/cloud_identity_types"
	wit "go.bytecodealliance.org/pkg/wit/types"
)

// A Token opens vaults. It says of itself whose it is.
type Token struct {
	identity.AccessToken
	Claims tokenclaims.Claims
}

// A TokenError says why there is no token. Programs decide by its cause; the
// message is for people.
type TokenError identity.Error

func (e *TokenError) Error() string {
	text := fmt.Sprintf("%s: %s", causes[e.Cause], e.Message)
	if e.RetryAfterMs.IsSome() {
		text += fmt.Sprintf(" (again in %d ms)", e.RetryAfterMs.Some())
	}
	return text
}

// causes are spelled as in WIT.
var causes = [...]string{
	identity.Cause_InvalidRequest:       "invalid-request",
	identity.Cause_Unsupported:          "unsupported",
	identity.Cause_NotConfigured:        "not-configured",
	identity.Cause_Denied:               "denied",
	identity.Cause_IdentityNotFound:     "identity-not-found",
	identity.Cause_IdentityAmbiguous:    "identity-ambiguous",
	identity.Cause_IdentityMismatch:     "identity-mismatch",
	identity.Cause_AudienceNotFound:     "audience-not-found",
	identity.Cause_EndpointUnreachable:  "endpoint-unreachable",
	identity.Cause_EndpointIntercepted:  "endpoint-intercepted",
	identity.Cause_CredentialUnreadable: "credential-unreadable",
	identity.Cause_CredentialRejected:   "credential-rejected",
	identity.Cause_Throttled:            "throttled",
	identity.Cause_PlatformUpdating:     "platform-updating",
	identity.Cause_PlatformFailure:      "platform-failure",
	identity.Cause_MalformedReply:       "malformed-reply",
	identity.Cause_TokenRejected:        "token-rejected",
	identity.Cause_DeadlineExceeded:     "deadline-exceeded",
	identity.Cause_Internal:             "internal",
}

// A Refusal is why another token is needed. The zero value is that of those
// who have none yet.
type Refusal struct {
	Token  string // refused by the vault
	Claims string // what the vault wants to see, where it says so
}

// GetToken asks for a token for vaults. Its error is, or wraps, a *TokenError.
func GetToken(refusal Refusal) (*Token, error) {
	token := managedidentity.GetToken(identity.TokenRequest{
		Audience:      "https://vault.azure.net",
		Identity:      identity.MakeIdentityPlatformDefault(),
		Claims:        optional(refusal.Claims),
		RejectedToken: optional(refusal.Token),
		TimeoutMs:     wit.Some[uint32](30_000),
	})
	if token.IsErr() {
		err := TokenError(token.Err())
		return nil, &err
	}
	claims := tokenclaims.Decode(token.Ok().Token)
	if claims.IsErr() {
		err := TokenError(claims.Err())
		return nil, fmt.Errorf("claims: %w", &err)
	}
	return &Token{token.Ok(), claims.Ok()}, nil
}

func optional(text string) wit.Option[string] {
	if text == "" {
		return wit.None[string]()
	}
	return wit.Some(text)
}
