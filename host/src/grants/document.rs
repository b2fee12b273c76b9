//! A policy as a TOML document.

use super::{
    AudiencePattern, AuthorizeRule, Caller, Grant, HostPattern, IdentityPattern, PatternError, Policy, Rate, TokenRule,
};
use crate::document::{Document, DocumentError, Entry, Table, shown};
use crate::outbound::Scheme;
use std::fmt;

/// The most calls that `concurrency` may allow at once.
const LARGEST_CONCURRENCY: u32 = 65_535;

impl Policy {
    /// Reads a policy from a document. Nothing in it is passed over: a key that is unknown, a list that is empty, a pattern
    /// that could mean something else than it says are errors.
    ///
    /// ```
    /// # let policy = managed_identity_host::grants::Policy::from_toml(r#"
    /// [caller.report]                 # the caller's name, as the host gives it
    /// rate = "100/minute"             # of all that it asks; without it, no limit. Also: second, hour
    /// refresh-rate = "10/minute"      # of what no cache answers: challenges, rejected tokens, forget; else 30/minute
    /// concurrency = 16                # calls under way at once; else 64
    ///
    /// [[caller.report.token]]         # tokens that it gets
    /// audiences = ["https://vault.azure.net", "https://*.database.windows.net"]
    /// identities = ["system-assigned", "client-id:12345678-90ab-cdef-1234-567890abcdef"]    # else platform-default
    ///
    /// [[caller.report.authorize-only]]    # requests that are sent with a token which it does not see
    /// hosts = ["*.vault.azure.net"]
    /// audience = "https://vault.azure.net"
    /// identity = "platform-default"       # which is what it is without this line
    ///
    /// [[caller.report.http]]          # requests that are sent as they are
    /// hosts = ["https://api.example.com"]
    /// # "#)?;
    /// # assert_eq!(policy.callers().count(), 1);
    /// # Ok::<(), managed_identity_host::grants::PolicyError>(())
    /// ```
    ///
    /// What the patterns mean is said at [`AudiencePattern`], [`IdentityPattern`] and [`HostPattern`].
    ///
    /// # Errors
    /// When the document is none. The message begins with the line.
    pub fn from_toml(text: &str) -> Result<Self, DocumentError> {
        let mut policy = Self::default();
        for entry in Document::parse(text)?.root().entries() {
            if entry.key() != "caller" {
                return Err(entry.unknown("the policy", &["caller"]));
            }
            for entry in entry.table("`caller`", "[caller.NAME]")?.entries() {
                let caller = Caller::read(entry)?;
                let place = caller.place();
                let mut grant = Grant::default();
                for entry in entry.table(&format!("`{place}`"), &format!("[{place}]"))?.entries() {
                    if !grant.read(entry, &caller)? {
                        return Err(entry.unknown(&format!("`[{place}]`"), Grant::KEYS));
                    }
                }
                policy = policy.with(caller, grant);
            }
        }
        Ok(policy)
    }
}

impl Caller {
    /// The caller whose table this is, in the table `caller` of a document.
    ///
    /// # Errors
    /// When it has no name that could be shown.
    pub fn read(entry: Entry<'_>) -> Result<Self, DocumentError> {
        let name = entry.key();
        if name.is_empty() || name.chars().any(char::is_control) {
            let message =
                "a caller has an empty name, or one with control characters; write the name that the host gives it";
            return Err(entry.key_error(message));
        }
        Ok(Self::new(name))
    }

    /// The name of its table in a document, without brackets: `caller.NAME`, in quotes where the name needs them.
    #[must_use]
    pub fn place(&self) -> String {
        section(self.name()).to_string()
    }
}

impl Grant {
    /// The keys of a caller's table that say what it is granted.
    pub const KEYS: &[&str] = &["rate", "refresh-rate", "concurrency", "token", "authorize-only", "http"];

    /// Takes what an entry of the table of `caller` says. Returns whether its key is one of [`KEYS`](Self::KEYS); documents
    /// that hold more than a policy have other keys in such a table.
    ///
    /// # Errors
    /// When it says nothing that could be granted.
    pub fn read(&mut self, entry: Entry<'_>, caller: &Caller) -> Result<bool, DocumentError> {
        let section = section(caller.name());
        let place = format!("[{section}]");
        match entry.key() {
            "rate" => self.rate = Some(entry.text_like(&place, "100/minute", Rate::parse)?),
            "refresh-rate" => self.refresh_rate = entry.text_like(&place, "100/minute", Rate::parse)?,
            "concurrency" => {
                let number = entry.number(&place, 1..=u64::from(LARGEST_CONCURRENCY), 64)?;
                self.in_flight = u32::try_from(number).unwrap_or(LARGEST_CONCURRENCY);
            }
            "token" => {
                let place = format!("[[{section}.token]]");
                for rule in entry.tables(&place)? {
                    self.token.push(token_rule(rule, &place)?);
                }
            }
            "authorize-only" => {
                let place = format!("[[{section}.authorize-only]]");
                for rule in entry.tables(&place)? {
                    self.authorize_only.push(authorize_rule(rule, &place)?);
                }
            }
            "http" => {
                let place = format!("[[{section}.http]]");
                for rule in entry.tables(&place)? {
                    self.http.extend(http_rule(rule, &place)?);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The name of the table that is about a caller, without brackets.
pub(crate) fn section(caller: &str) -> impl fmt::Display {
    fmt::from_fn(move |formatter| {
        let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let name = shown(caller);
        if !name.is_empty() && name.bytes().all(is_bare) {
            write!(formatter, "caller.{name}")
        } else {
            // What `shown` has cut or escaped is no name any more, and nothing that could be copied.
            let is_whole = name == caller;
            let name = if is_whole {
                name.replace('\\', "\\\\")
            } else {
                name.into_owned()
            };
            write!(formatter, "caller.\"{}\"", name.replace('"', "\\\""))
        }
    })
}

fn token_rule(rule: Table<'_>, place: &str) -> Result<TokenRule, DocumentError> {
    let mut audiences = None;
    let mut identities = None;
    for entry in rule.entries() {
        match entry.key() {
            "audiences" => audiences = Some(list(entry, place, AudiencePattern::parse)?),
            "identities" => identities = Some(list(entry, place, IdentityPattern::parse)?),
            _ => return Err(entry.unknown(&format!("`{place}`"), &["audiences", "identities"])),
        }
    }
    let Some(audiences) = audiences else {
        return Err(rule.missing(place, "audiences = [\"https://vault.azure.net\"]"));
    };
    let rule = TokenRule::new(audiences);
    Ok(match identities {
        Some(identities) => rule.with_identities(identities),
        None => rule,
    })
}

fn authorize_rule(rule: Table<'_>, place: &str) -> Result<AuthorizeRule, DocumentError> {
    let mut hosts = None;
    let mut audience = None;
    let mut identity = None;
    let https = |text: &str| match HostPattern::parse(text)? {
        pattern if pattern.scheme() == Scheme::Https => Ok(pattern),
        _ => Err(PatternError::new(
            "is not `https`, without which no token is sent; leave `http://` out",
        )),
    };
    let exact = |text: &str| match AudiencePattern::parse(text)?.exact() {
        Some(audience) => Ok(audience.to_owned()),
        None => Err(PatternError::new(
            "has a wildcard; write the one audience that the hosts take tokens for",
        )),
    };
    let one = |text: &str| match IdentityPattern::parse(text)? {
        IdentityPattern::Exactly(identity) => Ok(identity),
        IdentityPattern::Any => Err(PatternError::new("is no identity; write the one whose token is sent")),
    };
    for entry in rule.entries() {
        match entry.key() {
            "hosts" => hosts = Some(list(entry, place, https)?),
            "audience" => audience = Some(entry.text(place, exact)?),
            "identity" => identity = Some(entry.text(place, one)?),
            _ => return Err(entry.unknown(&format!("`{place}`"), &["hosts", "audience", "identity"])),
        }
    }
    let Some(hosts) = hosts else {
        return Err(rule.missing(place, "hosts = [\"*.vault.azure.net\"]"));
    };
    let Some(audience) = audience else {
        return Err(rule.missing(place, "audience = \"https://vault.azure.net\""));
    };
    Ok(AuthorizeRule::new(hosts, audience).with_identity(identity.unwrap_or_default()))
}

fn http_rule(rule: Table<'_>, place: &str) -> Result<Vec<HostPattern>, DocumentError> {
    let mut hosts = None;
    for entry in rule.entries() {
        match entry.key() {
            "hosts" => hosts = Some(list(entry, place, HostPattern::parse)?),
            _ => return Err(entry.unknown(&format!("`{place}`"), &["hosts"])),
        }
    }
    hosts.ok_or_else(|| rule.missing(place, "hosts = [\"api.example.com\"]"))
}

fn list<T>(
    entry: Entry<'_>,
    place: &str,
    parse: impl Fn(&str) -> Result<T, PatternError>,
) -> Result<Vec<T>, DocumentError> {
    let if_empty = format!("which grants nothing; write what is granted, or leave the `{place}` out");
    entry.texts(place, &if_empty, parse)
}

#[cfg(test)]
mod tests;
