//! Who may ask for which tokens. Nobody may, unless a policy says so.
//!
//! A [`Policy`] holds a [`Grant`] for each [`Caller`]: for which audiences and identities it gets tokens
//! ([`TokenRule`]), to which hosts its requests are sent with a token that it never sees ([`AuthorizeRule`]), and to which
//! others they are sent as they are. A [`Gate`] puts a policy before a [`Broker`](crate::Broker).

mod gate;
mod pattern;

pub use gate::{Destination, Gate, Granted};
pub use pattern::{AudiencePattern, HostPattern, IdentityPattern, PatternError};

use crate::token::Identity;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The name of somebody who asks: a plugin, a socket, the owner of a secret. The host gives it; a plugin cannot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(Arc<str>);

impl Caller {
    /// A caller by this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What each caller is granted. The default grants nothing to anybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    grants: BTreeMap<Caller, Arc<Grant>>,
}

impl Policy {
    /// The same policy with this grant for `caller`, instead of the one that it had.
    #[must_use]
    pub fn with(mut self, caller: Caller, grant: Grant) -> Self {
        self.grants.insert(caller, Arc::new(grant));
        self
    }

    /// What `caller` is granted; nothing when it is unknown.
    #[must_use]
    pub fn grant(&self, caller: &Caller) -> Option<&Arc<Grant>> {
        self.grants.get(caller)
    }

    /// All callers that are granted something, by name.
    pub fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.grants.keys()
    }
}

/// What one caller is granted. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// Tokens that it gets.
    pub token: Vec<TokenRule>,
    /// Requests that are sent with a token which it never sees.
    pub authorize_only: Vec<AuthorizeRule>,
    /// Hosts to which its requests are sent as they are.
    pub http: Vec<HostPattern>,
}

/// Tokens that a caller gets: any of these audiences as any of these identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRule {
    /// For what.
    pub audiences: Vec<AudiencePattern>,
    /// As whom.
    pub identities: Vec<IdentityPattern>,
}

/// Requests that are sent with a token: to these hosts, for this audience, as this identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizeRule {
    /// To where; `https` only.
    pub hosts: Vec<HostPattern>,
    /// For what.
    pub audience: String,
    /// As whom.
    pub identity: Identity,
}
