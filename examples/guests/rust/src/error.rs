//! Why there is no secret.

use crate::bindings::cloud::identity::types::{self, Cause};
use std::fmt;

pub(crate) enum Error {
    Usage,
    /// The URL is not that of a vault.
    NotAVault(String),
    /// There is no token.
    Token(types::Error),
    /// There is one, but it does not say whose.
    Claims(types::Error),
    /// The vault did not answer; or it broke off.
    NoAnswer(String),
    /// The vault answered with this status.
    Status(u16),
    /// The vault answered with something else than a secret.
    NotASecret,
}

impl From<types::Error> for Error {
    fn from(error: types::Error) -> Self {
        Self::Token(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage => f.write_str("usage: fetch-secret VAULT-URL SECRET"),
            Self::NotAVault(url) => write!(f, "not the URL of a vault: {url}"),
            Self::Token(error) => {
                write!(f, "{}: {}", name(error.cause), error.message)?;
                match error.retry_after_ms {
                    Some(milliseconds) => write!(f, " (again in {milliseconds} ms)"),
                    None => Ok(()),
                }
            }
            Self::Claims(error) => write!(f, "claims: {}: {}", name(error.cause), error.message),
            Self::NoAnswer(reason) => write!(f, "vault: no answer: {reason}"),
            Self::Status(status) => write!(f, "vault: status {status}"),
            Self::NotASecret => f.write_str("vault: not a secret"),
        }
    }
}

/// As WIT spells it. The message is for people; by the cause, a program decides what to do.
fn name(cause: Cause) -> &'static str {
    match cause {
        Cause::InvalidRequest => "invalid-request",
        Cause::Unsupported => "unsupported",
        Cause::NotConfigured => "not-configured",
        Cause::Denied => "denied",
        Cause::IdentityNotFound => "identity-not-found",
        Cause::IdentityAmbiguous => "identity-ambiguous",
        Cause::IdentityMismatch => "identity-mismatch",
        Cause::AudienceNotFound => "audience-not-found",
        Cause::EndpointUnreachable => "endpoint-unreachable",
        Cause::EndpointIntercepted => "endpoint-intercepted",
        Cause::CredentialUnreadable => "credential-unreadable",
        Cause::CredentialRejected => "credential-rejected",
        Cause::Throttled => "throttled",
        Cause::PlatformUpdating => "platform-updating",
        Cause::PlatformFailure => "platform-failure",
        Cause::MalformedReply => "malformed-reply",
        Cause::TokenRejected => "token-rejected",
        Cause::DeadlineExceeded => "deadline-exceeded",
        Cause::Internal => "internal",
    }
}
