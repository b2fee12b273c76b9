//! Who may ask for which tokens. Nobody may, unless a policy says so.
//!
//! A [`Policy`] holds a [`Grant`] for each [`Caller`]: for which audiences and identities it gets tokens
//! ([`TokenRule`]), to which hosts its requests are sent with a token that it never sees ([`AuthorizeRule`]), and to which
//! others they are sent as they are. It is made of such values, or read from a document: [`Policy::from_toml`] shows one
//! with all that it can have. A [`Gate`] puts a policy before a [`Broker`](crate::Broker), limits how often each
//! caller asks, and tells the [audit trail](crate::audit) of each call.

mod document;
mod gate;
mod limits;
mod pattern;
mod rate;

pub use gate::{Destination, Gate, Granted};
pub(crate) use pattern::named;
pub use pattern::{AudiencePattern, HostPattern, IdentityPattern, PatternError};
pub use rate::Rate;

/// Why a document is no policy.
pub use crate::document::DocumentError as PolicyError;
use crate::outbound::{Origin, Scheme};
use crate::token::Identity;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
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
///
/// ```
/// use managed_identity_host::grants::{AudiencePattern, Caller, Grant, IdentityPattern, Policy, TokenRule};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rule = TokenRule::new([AudiencePattern::parse("https://vault.azure.net")?])
///     .with_identities([IdentityPattern::parse("system-assigned")?]);
/// let grant = Grant::default().with_token(rule).with_rate("100/minute".parse()?);
/// let policy = Policy::default().with(Caller::new("report"), grant);
/// # let text = "
/// #     [caller.report]
/// #     rate = '100/minute'
/// #     [[caller.report.token]]
/// #     audiences = ['https://vault.azure.net']
/// #     identities = ['system-assigned']
/// # ";
/// # assert_eq!(policy, Policy::from_toml(text)?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Grant {
    /// Tokens that it gets.
    pub token: Vec<TokenRule>,
    /// Requests that are sent with a token which it never sees.
    pub authorize_only: Vec<AuthorizeRule>,
    /// Hosts to which its requests are sent as they are.
    pub http: Vec<HostPattern>,
    /// How often it may ask for anything; without limit when absent.
    pub rate: Option<Rate>,
    /// How often it may ask for what no cache answers: with a challenge, with a rejected token, or to forget. These reach
    /// the platform whenever the caller wants, and what the platform takes is shared by all. The default is 30 a minute.
    pub refresh_rate: Rate,
    /// How many of its calls may be under way at once. The default is 64. A call that nobody waits for any more is under way
    /// as long as the provider is at work for it.
    pub in_flight: u32,
}

impl Default for Grant {
    fn default() -> Self {
        const THIRTY: NonZeroU32 = NonZeroU32::MIN.saturating_add(29);
        Self {
            token: Vec::new(),
            authorize_only: Vec::new(),
            http: Vec::new(),
            rate: None,
            refresh_rate: Rate::per_minute(THIRTY),
            in_flight: 64,
        }
    }
}

impl Grant {
    /// The same grant and these tokens.
    #[must_use]
    pub fn with_token(mut self, rule: TokenRule) -> Self {
        self.token.push(rule);
        self
    }

    /// The same grant and these requests, which are sent with a token.
    #[must_use]
    pub fn with_authorize_only(mut self, rule: AuthorizeRule) -> Self {
        self.authorize_only.push(rule);
        self
    }

    /// The same grant and requests to these hosts, which are sent as they are.
    #[must_use]
    pub fn with_http(mut self, hosts: impl IntoIterator<Item = HostPattern>) -> Self {
        self.http.extend(hosts);
        self
    }

    /// The same grant, so often and no oftener.
    #[must_use]
    pub fn with_rate(mut self, rate: Rate) -> Self {
        self.rate = Some(rate);
        self
    }

    /// The same grant with another limit on what no cache answers.
    #[must_use]
    pub fn with_refresh_rate(mut self, rate: Rate) -> Self {
        self.refresh_rate = rate;
        self
    }

    /// The same grant with another limit on the calls under way.
    #[must_use]
    pub fn with_in_flight(mut self, calls: u32) -> Self {
        self.in_flight = calls;
        self
    }

    /// Whether it holds a token for this audience as this identity.
    fn has_token(&self, audience: &str, identity: &Identity) -> bool {
        self.token
            .iter()
            .any(|rule| rule.has_audience(audience) && rule.identities.iter().any(|pattern| pattern.has(identity)))
    }

    /// Whether it holds a token for this audience as any identity.
    fn has_audience(&self, audience: &str) -> bool {
        self.token.iter().any(|rule| rule.has_audience(audience))
    }

    /// The rule for requests to `origin` that are sent with a token. They are on `https`, whatever the rule's hosts say.
    fn authorized(&self, origin: &Origin) -> Option<&AuthorizeRule> {
        if origin.scheme() != Scheme::Https {
            return None;
        }
        self.authorize_only
            .iter()
            .find(|rule| rule.hosts.iter().any(|host| host.has(origin)))
    }
}

/// Tokens that a caller gets: any of these audiences as any of these identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRule {
    /// For what.
    pub audiences: Vec<AudiencePattern>,
    /// As whom.
    pub identities: Vec<IdentityPattern>,
}

impl TokenRule {
    /// These audiences as the platform's default identity.
    #[must_use]
    pub fn new(audiences: impl IntoIterator<Item = AudiencePattern>) -> Self {
        Self {
            audiences: audiences.into_iter().collect(),
            identities: vec![IdentityPattern::Exactly(Identity::PlatformDefault)],
        }
    }

    /// The same rule for these identities instead.
    #[must_use]
    pub fn with_identities(mut self, identities: impl IntoIterator<Item = IdentityPattern>) -> Self {
        self.identities = identities.into_iter().collect();
        self
    }

    fn has_audience(&self, audience: &str) -> bool {
        self.audiences.iter().any(|pattern| pattern.has(audience))
    }
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

impl AuthorizeRule {
    /// Requests to these hosts, with a token for `audience` as the platform's default identity.
    #[must_use]
    pub fn new(hosts: impl IntoIterator<Item = HostPattern>, audience: impl Into<String>) -> Self {
        Self {
            hosts: hosts.into_iter().collect(),
            audience: audience.into(),
            identity: Identity::PlatformDefault,
        }
    }

    /// The same rule as another identity.
    #[must_use]
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }
}
