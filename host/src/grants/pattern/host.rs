//! Hosts to which requests go.

use super::{PatternError, wildcard_domain};
use crate::outbound::{Origin, Scheme};
use std::fmt;
use std::str::FromStr;
use url::Host;

/// Which hosts a rule is for.
///
/// | pattern | for |
/// |---|---|
/// | `vault.example` | this name, on `https` and port 443 |
/// | `vault.example:8443`, `[2001:db8::1]:8443`, `192.0.2.1` | a name or address, with a port if it is another than 443 |
/// | `*.vault.azure.net` | `name.vault.azure.net`, with any one label for `*`; with or without a port |
/// | `https://vault.example` | the same as without `https://` |
/// | `http://vault.example` | the same on `http` and port 80, which no request with a token takes |
///
/// Names are compared without regard to case. Addresses and names are written in their usual form, as requests write them;
/// a name is not resolved to compare it with an address.
///
/// ```
/// use managed_identity_host::grants::HostPattern;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let vaults = HostPattern::parse("*.vault.azure.net")?;
/// assert!(vaults.is_wildcard());
/// assert!(HostPattern::parse("vault.azure.net/secrets").is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Exactly(Origin),
    Below { scheme: Scheme, domain: String, port: u16 },
}

impl HostPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (scheme, authority) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(_) => {
                return Err(PatternError::new(
                    "has another scheme than `http` or `https`, in lower case; write `https://` or nothing before the host",
                ));
            }
            None => (Scheme::Https, text),
        };
        if authority.contains(['/', '?', '#']) {
            return Err(PatternError::new(
                "has something after its host and port; a rule is for a whole host, so leave the path out",
            ));
        }
        if let Some(rest) = authority.strip_prefix("*.") {
            let (domain, port) = wildcard_domain(scheme, rest)?;
            return Ok(Self(Kind::Below { scheme, domain, port }));
        }
        if authority.contains('*') {
            return Err(PatternError::new(
                "has a `*` where it has no meaning; write it as the first label, as in `*.vault.azure.net`",
            ));
        }
        Ok(Self(Kind::Exactly(Origin::parse(scheme, authority)?)))
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match &self.0 {
            Kind::Exactly(origin) => origin.scheme(),
            Kind::Below { scheme, .. } => *scheme,
        }
    }

    /// Whether it stands for many hosts.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        matches!(self.0, Kind::Below { .. })
    }

    /// Whether it stands for an address, which the policy's author has therefore seen. What a name leads to, the policy's
    /// author has not.
    #[must_use]
    pub fn is_address(&self) -> bool {
        matches!(&self.0, Kind::Exactly(origin) if origin.address().is_some())
    }

    /// Whether the rule is for this origin. `*` stands for one label of a name.
    #[must_use]
    pub fn has(&self, origin: &Origin) -> bool {
        match &self.0 {
            Kind::Exactly(own) => own == origin,
            Kind::Below { scheme, domain, port } => {
                let below = match origin.host() {
                    Host::Domain(name) => name.split_once('.').is_some_and(|(_, rest)| rest == domain),
                    Host::Ipv4(_) | Host::Ipv6(_) => false,
                };
                below && origin.scheme() == *scheme && origin.port() == *port
            }
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

/// Prints the scheme too, and the port where it is not the scheme's own.
impl fmt::Display for HostPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Exactly(origin) => origin.fmt(formatter),
            Kind::Below { scheme, domain, port } => {
                write!(formatter, "{}://*.{domain}", scheme.as_str())?;
                match (scheme, port) {
                    (Scheme::Https, 443) | (Scheme::Http, 80) => Ok(()),
                    _ => write!(formatter, ":{port}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the patterns are literals")]

    use super::*;

    fn origin(url: &str) -> Origin {
        let (scheme, authority) = url.split_once("://").unwrap();
        Origin::parse(Scheme::parse(scheme).unwrap(), authority).unwrap()
    }

    #[test]
    fn a_host_is_compared_with_scheme_and_port() {
        for (pattern, url, has) in [
            ("vault.example", "https://vault.example", true),
            ("vault.example", "https://VAULT.example:443", true),
            ("vault.example", "https://vault.example:8443", false),
            ("vault.example", "http://vault.example", false),
            ("vault.example", "http://vault.example:443", false),
            ("vault.example", "https://a.vault.example", false),
            ("vault.example", "https://vault.example.evil.example", false),
            ("Vault.Example", "https://vault.example", true),
            ("https://vault.example", "https://vault.example", true),
            ("vault.example:8443", "https://vault.example:8443", true),
            ("vault.example:8443", "https://vault.example", false),
            ("http://vault.example", "http://vault.example", true),
            ("http://vault.example", "https://vault.example", false),
            ("http://vault.example", "https://vault.example:80", false),
            ("192.0.2.1", "https://192.0.2.1", true),
            ("192.0.2.1", "https://192.0.2.2", false),
            ("[2001:db8::1]:8443", "https://[2001:DB8::1]:8443", true),
            ("[::ffff:c000:201]", "https://192.0.2.1", false),
            ("*.vault.azure.net", "https://a.vault.azure.net", true),
            ("*.vault.azure.net", "https://A.Vault.Azure.Net", true),
            ("*.vault.azure.net", "https://a.b.vault.azure.net", false),
            ("*.vault.azure.net", "https://vault.azure.net", false),
            ("*.vault.azure.net", "https://avault.azure.net", false),
            ("*.vault.azure.net", "https://a.vault.azure.net.evil.example", false),
            ("*.vault.azure.net", "http://a.vault.azure.net", false),
            ("*.vault.azure.net", "https://a.vault.azure.net:8443", false),
            ("*.vault.azure.net:8443", "https://a.vault.azure.net:8443", true),
            ("http://*.vault.example", "http://a.vault.example", true),
        ] {
            let pattern = HostPattern::parse(pattern).unwrap();
            assert_eq!(pattern.has(&origin(url)), has, "{pattern} and {url}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_with_what_to_write() {
        for (text, message) in [
            ("", "names no host"),
            ("https://", "names no host"),
            ("*", "no meaning"),
            ("*:443", "no meaning"),
            ("a*.vault.azure.net", "no meaning"),
            ("vault.*.net", "no meaning"),
            ("*.", "names no host"),
            ("*.net", "less than two labels"),
            ("*.localhost", "less than two labels"),
            ("*.*.azure.net", "more than one `*`"),
            ("*.0.0.1", "usual form"),
            ("*.127.0.0.1", "an address"),
            ("*.[::1]", "an address"),
            ("ftp://a.example", "another scheme"),
            ("HTTPS://a.example", "another scheme"),
            ("https://https://a.example", "after its host"),
            ("a.example/", "after its host"),
            ("a.example/path", "after its host"),
            ("a.example?x", "after its host"),
            ("a.example#x", "after its host"),
            ("user@a.example", "user information"),
            ("*.user@a.example", "user information"),
            ("a.example.", "ends with a dot"),
            ("b\u{fc}cher.example", "punycode"),
            ("a.example%2e", "a character"),
            ("127.1", "127.0.0.1"),
            ("[::0001]", "[::1]"),
            ("::1", "names no host"),
            ("a.example:0", "a port"),
            ("a.example:", "a port"),
            ("a.example:65536", "a port"),
            ("*.a.example:0", "a port"),
        ] {
            let error = HostPattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text:?} {error}");
        }
    }

    #[test]
    fn a_pattern_says_what_it_is() {
        for (text, printed, wildcard, address) in [
            ("vault.example", "https://vault.example", false, false),
            ("http://vault.example:80", "http://vault.example", false, false),
            ("[::1]:8443", "https://[::1]:8443", false, true),
            ("http://127.0.0.1", "http://127.0.0.1", false, true),
            ("*.vault.azure.net:443", "https://*.vault.azure.net", true, false),
            ("*.vault.azure.net:80", "https://*.vault.azure.net:80", true, false),
            ("http://*.vault.example", "http://*.vault.example", true, false),
        ] {
            let pattern: HostPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), printed);
            assert_eq!(
                (pattern.is_wildcard(), pattern.is_address()),
                (wildcard, address),
                "{text}"
            );
            assert_eq!(HostPattern::parse(printed).as_ref(), Ok(&pattern), "{text}");
        }
    }
}
