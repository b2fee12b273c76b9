//! Audiences, as resources.

use super::{PatternError, wildcard_domain};
use crate::outbound::Scheme;
use managed_identity_provider::request::Audience;
use std::fmt;
use std::str::FromStr;

/// What is before the wildcard.
const WILDCARD: &str = "https://*.";

/// What a scope adds to the resource that it stands for.
const SCOPE_SUFFIX: &str = "/.default";

/// The longest label of a host name, in characters (RFC 1035 section 2.3.4).
const LABEL_LIMIT: usize = 63;

/// Which audiences a rule is for: one, those of one domain, or any.
///
/// | pattern | for |
/// |---|---|
/// | `https://vault.azure.net` | this resource, given as it is or as the scope `https://vault.azure.net/.default` |
/// | `https://*.database.windows.net` | `https://name.database.windows.net`, with any one label for `*` |
/// | `*` | any audience |
///
/// Audiences are compared character by character, since the platform does so too: it distinguishes `https://example.com`
/// from `https://example.com/`, and so do patterns, which may have that slash after a wildcard's host as well. `*` stands
/// for letters, digits and hyphens as a host name has them, and so for no dot, slash, colon, `@` or `%`.
///
/// ```
/// use managed_identity_host::grants::AudiencePattern;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let databases = AudiencePattern::parse("https://*.database.windows.net")?;
/// assert!(databases.has("https://orders.database.windows.net/.default"));
/// assert!(!databases.has("https://a.b.database.windows.net"));
/// assert!(AudiencePattern::parse("https://vault.*").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudiencePattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Any,
    Exactly(String),
    /// What comes after the label: a dot, the domain, and a slash where the pattern ends with one.
    Below(String),
}

impl AudiencePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self(Kind::Any));
        }
        if text.ends_with(SCOPE_SUFFIX) {
            return Err(PatternError::new(
                "is a scope; write the resource, which is what comes before `/.default`, and scopes are granted with it",
            ));
        }
        if let Some(rest) = text.strip_prefix(WILDCARD) {
            return Self::below(rest);
        }
        if text.contains('*') {
            return Err(PatternError::new(
                "has a `*` where it has no meaning; write it as the first label of a host, as in \
                 `https://*.database.windows.net`, or alone for any audience",
            ));
        }
        let audience =
            Audience::parse(text).map_err(|error| PatternError::new(format!("is no audience: {}", error.message)))?;
        Ok(Self(Kind::Exactly(audience.resource().to_owned())))
    }

    fn below(rest: &str) -> Result<Self, PatternError> {
        let domain = rest.strip_suffix('/').unwrap_or(rest);
        if domain.contains([':', '/']) {
            return Err(PatternError::new(
                "has a port or a path after its wildcard; such audiences are granted one by one",
            ));
        }
        if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(PatternError::new(
                "has capital letters after its wildcard; audiences are compared letter by letter, so write it in lower case",
            ));
        }
        wildcard_domain(Scheme::Https, domain)?;
        Ok(Self(Kind::Below(format!(".{rest}"))))
    }

    /// Whether the rule is for this audience, given as a resource or as a scope.
    #[must_use]
    pub fn has(&self, audience: &str) -> bool {
        let resource = audience.strip_suffix(SCOPE_SUFFIX).unwrap_or(audience);
        match &self.0 {
            Kind::Any => true,
            Kind::Exactly(own) => own == resource,
            Kind::Below(domain) => resource
                .strip_prefix("https://")
                .and_then(|rest| rest.strip_suffix(domain.as_str()))
                .is_some_and(is_label),
        }
    }

    /// The one audience that the rule is for, if it is one.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match &self.0 {
            Kind::Exactly(own) => Some(own),
            Kind::Any | Kind::Below(_) => None,
        }
    }
}

/// Whether this is one label of a host name, and nothing that a parser of URLs would make two of.
fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LABEL_LIMIT
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl FromStr for AudiencePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl fmt::Display for AudiencePattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Any => formatter.write_str("*"),
            Kind::Exactly(own) => formatter.write_str(own),
            Kind::Below(domain) => write!(formatter, "https://*{domain}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the patterns are literals")]

    use super::*;

    #[test]
    fn an_audience_is_compared_as_a_resource_and_letter_by_letter() {
        let long = format!("https://{}.database.windows.net", "a".repeat(64));
        let longest = format!("https://{}.database.windows.net", "a".repeat(63));
        let vault = "https://vault.azure.net";
        let databases = "https://*.database.windows.net";
        for (pattern, audience, has) in [
            (vault, "https://vault.azure.net", true),
            (vault, "https://vault.azure.net/.default", true),
            (vault, "https://vault.azure.net/", false),
            (vault, "https://vault.azure.net//.default", false),
            (vault, "https://vault.azure.net/.default/.default", false),
            (vault, "https://vault.azure.net/.Default", false),
            (vault, "https://Vault.azure.net", false),
            (vault, "https://vault.azure.net.evil.example", false),
            (
                vault,
                "https://vault.azure.net https://graph.microsoft.com/.default",
                false,
            ),
            (vault, " https://vault.azure.net", false),
            (vault, "http://vault.azure.net", false),
            (vault, "", false),
            (vault, "/.default", false),
            ("https://vault.azure.net/", "https://vault.azure.net/", true),
            ("https://vault.azure.net/", "https://vault.azure.net//.default", true),
            ("https://vault.azure.net/", "https://vault.azure.net", false),
            ("https://vault.azure.net/", "https://vault.azure.net/.default", false),
            (
                "api://AzureADTokenExchange",
                "api://AzureADTokenExchange/.default",
                true,
            ),
            ("api://AzureADTokenExchange", "api://azureadtokenexchange", false),
            (databases, "https://orders.database.windows.net", true),
            (databases, "https://orders.database.windows.net/.default", true),
            (databases, "https://Orders-2.database.windows.net", true),
            (databases, &longest, true),
            (databases, &long, false),
            (databases, "https://orders.database.windows.net/", false),
            (databases, "https://orders.database.windows.net//.default", false),
            (databases, "https://orders.Database.windows.net", false),
            (databases, "https://database.windows.net", false),
            (databases, "https://.database.windows.net", false),
            (databases, "https://a.b.database.windows.net", false),
            (databases, "https://*.database.windows.net", false),
            (databases, "https://evil.example/.database.windows.net", false),
            (databases, "https://evil.example#.database.windows.net", false),
            (databases, "https://evil?.database.windows.net", false),
            (databases, "https://evil\\.database.windows.net", false),
            (databases, "https://evil:1@a.database.windows.net", false),
            (databases, "https://a:1.database.windows.net", false),
            (databases, "https://a@.database.windows.net", false),
            (databases, "https://a%2e.database.windows.net", false),
            (databases, "https://a b.database.windows.net", false),
            (databases, "https://a\n.database.windows.net", false),
            (databases, "https://b\u{fc}.database.windows.net", false),
            (databases, "https://-a.database.windows.net", false),
            (databases, "https://a-.database.windows.net", false),
            (databases, "http://a.database.windows.net", false),
            (databases, "https://a.database.windows.net.evil.example", false),
            (
                "https://*.database.windows.net/",
                "https://a.database.windows.net/",
                true,
            ),
            (
                "https://*.database.windows.net/",
                "https://a.database.windows.net//.default",
                true,
            ),
            (
                "https://*.database.windows.net/",
                "https://a.database.windows.net",
                false,
            ),
            ("*", "https://vault.azure.net", true),
            ("*", "anything", true),
        ] {
            let pattern = AudiencePattern::parse(pattern).unwrap();
            assert_eq!(pattern.has(audience), has, "{pattern} and {audience:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_what_to_write() {
        for (text, message) in [
            ("", "is empty"),
            ("/.default", "is a scope"),
            (".default", "names no resource"),
            ("a b", "white space"),
            ("\u{fc}", "visible ASCII"),
            ("https://vault.azure.net/.default", "write the resource"),
            ("**", "no meaning"),
            ("https://*", "no meaning"),
            ("https://a*.vault.azure.net", "no meaning"),
            ("https://vault.*.net", "no meaning"),
            ("http://*.vault.azure.net", "no meaning"),
            ("HTTPS://*.vault.azure.net", "no meaning"),
            ("api://*", "no meaning"),
            ("*.vault.azure.net", "no meaning"),
            ("https://*.", "names no host"),
            ("https://*./", "names no host"),
            ("https://*.net", "less than two labels"),
            ("https://*.*.azure.net", "more than one `*`"),
            ("https://*.127.0.0.1", "an address"),
            ("https://*.vault.azure.net.", "ends with a dot"),
            ("https://*.vault..net", "neither a name nor an address"),
            ("https://*.vault.azure.net:443", "port or a path"),
            ("https://*.vault.azure.net/x", "port or a path"),
            ("https://*.vault.azure.net//", "port or a path"),
            ("https://*.vault.Azure.net", "lower case"),
            ("https://*.a@vault.azure.net", "user information"),
        ] {
            let error = AudiencePattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text:?} {error}");
        }
    }

    #[test]
    fn a_pattern_prints_as_it_is_written() {
        for (text, exact) in [
            ("*", None),
            ("https://vault.azure.net/", Some("https://vault.azure.net/")),
            ("https://*.vault.azure.net", None),
            ("https://*.vault.azure.net/", None),
        ] {
            let pattern: AudiencePattern = text.parse().unwrap();
            assert_eq!((pattern.to_string().as_str(), pattern.exact()), (text, exact));
        }
    }
}
