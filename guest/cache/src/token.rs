//! What is asked for and what is handed out, as `cloud:identity/types` has it.

use zeroize::Zeroizing;

/// Text that must not be seen: overwritten when dropped, and not printable.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over `text`. The caller keeps no copy.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Which of the platform's identities to act as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The one that the platform's configuration names.
    PlatformDefault,
    /// The system-assigned one.
    SystemAssigned,
    /// A user-assigned one, by its client id.
    ClientId(String),
    /// A user-assigned one, by the object id of its service principal.
    ObjectId(String),
    /// A user-assigned one, by its resource id.
    ResourceId(String),
}

/// What a client asks for. Nothing is checked here: what is wrong is never in the store, and the provider says what is wrong
/// with it.
pub struct TokenRequest {
    /// A resource, or one scope that ends in `/.default`.
    pub audience: String,
    /// Whose token.
    pub identity: Identity,
    /// The claims challenge of a rejected request.
    pub claims: Option<String>,
    /// A token that the audience has just rejected.
    pub rejected_token: Option<Secret>,
    /// How long the client waits, in milliseconds.
    pub timeout_ms: Option<u32>,
}

/// A token and what is known of it. Times are seconds since 1970-01-01T00:00:00Z.
#[derive(Clone)]
pub struct AccessToken {
    /// The token itself.
    pub secret: Secret,
    /// As in an `Authorization` header.
    pub token_type: String,
    /// The resource that it is for.
    pub audience: String,
    /// From when on it is worthless.
    pub expires_on: u64,
    /// From when on a successor is looked for.
    pub refresh_on: u64,
    /// The client id of the identity, when the platform says it.
    pub client_id: Option<String>,
    /// Where it comes from.
    pub source: String,
    /// Whether its successor is overdue because the platform failed. Not kept in the store.
    pub stale: bool,
}
