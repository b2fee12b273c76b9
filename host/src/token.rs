//! What callers ask for and get.

use managed_identity_provider::error::Error;
use managed_identity_provider::secret::Secret;
use std::time::{Duration, SystemTime};

/// Which of the platform's identities to act as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The one that the platform's configuration names, else the system-assigned one.
    #[default]
    PlatformDefault,
    /// The identity that lives and dies with this machine, app or pod.
    SystemAssigned,
    /// A user-assigned identity, by its client (application) id.
    ClientId(String),
    /// A user-assigned identity, by the object id of its service principal.
    ObjectId(String),
    /// A user-assigned identity, by its Azure resource id.
    ResourceId(String),
}

/// What is asked for. The provider checks it; nothing here can fail.
///
/// ```
/// use managed_identity_host::{Identity, TokenRequest};
/// use std::time::Duration;
///
/// let request = TokenRequest::new("https://vault.azure.net")
///     .with_identity(Identity::ClientId("12345678-90ab-cdef-1234-567890abcdef".into()))
///     .with_timeout(Duration::from_secs(10));
/// assert_eq!(request.audience, "https://vault.azure.net");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TokenRequest {
    /// A resource, or one scope that ends in `/.default`.
    pub audience: String,
    /// Whose token.
    pub identity: Identity,
    /// The claims challenge of a rejected request, as JSON or base64; bypasses the cache.
    pub claims: Option<String>,
    /// A token that the audience has just rejected; it is never returned again.
    pub rejected_token: Option<Secret>,
    /// How long the caller waits; 90 seconds when absent, and at most an hour. Counted in milliseconds, from the call on.
    pub timeout: Option<Duration>,
}

impl TokenRequest {
    /// A request for one audience as the platform's default identity.
    pub fn new(audience: impl Into<String>) -> Self {
        Self {
            audience: audience.into(),
            identity: Identity::default(),
            claims: None,
            rejected_token: None,
            timeout: None,
        }
    }

    /// The same request as another identity.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// The same request with a claims challenge.
    #[must_use]
    pub fn with_claims(mut self, claims: impl Into<String>) -> Self {
        self.claims = Some(claims.into());
        self
    }

    /// The same request, with a token that must not be returned again.
    #[must_use]
    pub fn with_rejected_token(mut self, token: Secret) -> Self {
        self.rejected_token = Some(token);
        self
    }

    /// The same request with a limit on the wait.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// A bearer token and what is known of it. Times are seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccessToken {
    /// The token itself, which prints as `[redacted]`.
    pub token: Secret,
    /// As in an `Authorization` header, usually `Bearer`.
    pub token_type: String,
    /// The resource that the token is for.
    pub audience: String,
    /// From when on the token is worthless.
    pub expires_on: u64,
    /// From when on the provider looks for a successor.
    pub refresh_on: u64,
    /// The client id of the identity, when the platform says it.
    pub client_id: Option<String>,
    /// Where the token comes from.
    pub source: String,
    /// The successor is overdue because the platform failed; the token is still valid.
    pub stale: bool,
}

/// The time as tokens have it.
pub(crate) fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Where tokens come from, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SourceDescription {
    /// The name of the source, or nothing when none can be used.
    pub source: Option<String>,
    /// The address that is asked, without secrets.
    pub endpoint: Option<String>,
    /// Sentences that name the variables that decided, never their values.
    pub reasons: Vec<String>,
    /// The latest failure, when there was one since the last success.
    pub last_failure: Option<Error>,
}
