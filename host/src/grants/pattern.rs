//! What a rule compares with: audiences, identities, hosts.

use crate::outbound::{Origin, Scheme};
use crate::token::Identity;

/// Which audiences a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudiencePattern(String);

/// Which identities a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityPattern {
    /// All of them.
    Any,
    /// This one.
    Exactly(Identity),
}

/// Which hosts a rule is for: `vault.example`, `vault.example:8443`, `*.vault.azure.net`, which is `https` in each case, or one
/// of these after `http://`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    scheme: Scheme,
    /// The name or address, or what comes after `*.`.
    host: String,
    wildcard: bool,
    port: u16,
}

/// Why a pattern is none. Reads as the end of a sentence that begins with the pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl AudiencePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Ok(Self(text.to_owned()))
    }

    /// Whether the rule is for this audience, given as a resource or as a scope.
    #[must_use]
    pub fn has(&self, audience: &str) -> bool {
        self.0 == audience.strip_suffix("/.default").unwrap_or(audience)
    }
}

impl IdentityPattern {
    /// Whether the rule is for this identity.
    #[must_use]
    pub fn has(&self, identity: &Identity) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(own) => own == identity,
        }
    }
}

impl HostPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(_) => return Err(PatternError("has another scheme than http or https".to_owned())),
            None => (Scheme::Https, text),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (
                host,
                port.parse()
                    .map_err(|_| PatternError("has something after its colon that is no port".to_owned()))?,
            ),
            None => (rest, if scheme == Scheme::Https { 443 } else { 80 }),
        };
        let (host, wildcard) = match host.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (host, false),
        };
        Ok(Self {
            scheme,
            host: host.to_owned(),
            wildcard,
            port,
        })
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether it stands for many hosts.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether the rule is for this origin. `*` stands for one label of a name.
    #[must_use]
    pub fn has(&self, origin: &Origin) -> bool {
        let host = origin.host().to_string();
        let same_host = if self.wildcard {
            host.split_once('.').is_some_and(|(_, rest)| rest == self.host)
        } else {
            host == self.host
        };
        same_host && origin.scheme() == self.scheme && origin.port() == self.port
    }
}
