//! The closed list of causes and the one error type of the engine.

use std::fmt;

/// Why there is no token. Mirrors `cause` of `cloud:identity/types`, where each case is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "each case is documented once, in the WIT package that this enum mirrors"
)]
pub enum Cause {
    InvalidRequest,
    Unsupported,
    NotConfigured,
    Denied,
    IdentityNotFound,
    IdentityAmbiguous,
    IdentityMismatch,
    AudienceNotFound,
    EndpointUnreachable,
    EndpointIntercepted,
    CredentialUnreadable,
    CredentialRejected,
    Throttled,
    PlatformUpdating,
    PlatformFailure,
    MalformedReply,
    TokenRejected,
    DeadlineExceeded,
    Internal,
}

impl Cause {
    /// Every cause, in the order of the WIT package.
    pub const ALL: [Self; 19] = [
        Self::InvalidRequest,
        Self::Unsupported,
        Self::NotConfigured,
        Self::Denied,
        Self::IdentityNotFound,
        Self::IdentityAmbiguous,
        Self::IdentityMismatch,
        Self::AudienceNotFound,
        Self::EndpointUnreachable,
        Self::EndpointIntercepted,
        Self::CredentialUnreadable,
        Self::CredentialRejected,
        Self::Throttled,
        Self::PlatformUpdating,
        Self::PlatformFailure,
        Self::MalformedReply,
        Self::TokenRejected,
        Self::DeadlineExceeded,
        Self::Internal,
    ];

    /// The name as WIT spells it, such as `identity-not-found`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::Unsupported => "unsupported",
            Self::NotConfigured => "not-configured",
            Self::Denied => "denied",
            Self::IdentityNotFound => "identity-not-found",
            Self::IdentityAmbiguous => "identity-ambiguous",
            Self::IdentityMismatch => "identity-mismatch",
            Self::AudienceNotFound => "audience-not-found",
            Self::EndpointUnreachable => "endpoint-unreachable",
            Self::EndpointIntercepted => "endpoint-intercepted",
            Self::CredentialUnreadable => "credential-unreadable",
            Self::CredentialRejected => "credential-rejected",
            Self::Throttled => "throttled",
            Self::PlatformUpdating => "platform-updating",
            Self::PlatformFailure => "platform-failure",
            Self::MalformedReply => "malformed-reply",
            Self::TokenRejected => "token-rejected",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A failure as `cloud:identity/types.error` has it. Never holds a token, secret or key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The one cause.
    pub cause: Cause,
    /// One or two sentences for a person: what failed, where, what to do.
    pub message: String,
    /// The source that was used.
    pub source: Option<String>,
    /// The HTTP status of the reply that decided.
    pub http_status: Option<u16>,
    /// Milliseconds until another try makes sense.
    pub retry_after_ms: Option<u32>,
    /// The platform's own identifier of the failed request.
    pub correlation_id: Option<String>,
}

impl Error {
    /// A failure known by its cause and message alone.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self {
            cause,
            message: message.into(),
            source: None,
            http_status: None,
            retry_after_ms: None,
            correlation_id: None,
        }
    }

    /// The same failure, attributed to a source.
    #[must_use]
    pub fn with_source(mut self, source: &str) -> Self {
        self.source = Some(source.to_owned());
        self
    }

    /// The same failure, with the status of the reply that decided.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.http_status = Some(status);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.cause, self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_causes_is_whole_and_in_order() {
        for (index, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, index, "{cause}");
        }
    }
}
