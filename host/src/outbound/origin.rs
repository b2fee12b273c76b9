//! One reading of scheme, host, port and path, for configured endpoints and for requests alike.
//!
//! URL parsers differ, and a gap between the one that decides and the one that connects is how allow-lists are passed
//! by. So text is not repaired here: a spelling is taken only if it is the canonical one, that is, what
//! [`url::Host`] would print. `2130706433`, `0x7f.1` and `127.1` are refused although they could be read as 127.0.0.1.

use std::fmt;
use std::net::IpAddr;
use url::Host;

/// The longest host name, in characters (RFC 1035 section 2.3.4, without the root's dot).
const HOST_NAME_LIMIT: usize = 253;

/// The longest part of a host name between two dots, in characters (RFC 1035 section 2.3.4).
const LABEL_LIMIT: usize = 63;

/// The schemes of identity endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`, without TLS: every endpoint that is on the same machine or link.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// Reads a scheme in any case.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https]
            .into_iter()
            .find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    /// The scheme in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Scheme, host and port in canonical form: where a request goes to.
///
/// Prints as `http://host:port`, without the port where it is the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: Scheme,
    host: Host<String>,
    port: u16,
}

impl Origin {
    /// Reads `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.
    ///
    /// # Errors
    /// When it is something else, or another spelling of the same.
    pub fn parse(scheme: Scheme, authority: &str) -> Result<Self, OriginFault> {
        if authority.contains('@') {
            return Err(OriginFault::UserInformation);
        }
        if !authority
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
        {
            return Err(OriginFault::Character);
        }
        let (host, port) = match authority.find(']') {
            Some(end) => authority.split_at(end + 1),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        Ok(Self {
            scheme,
            host: parse_host(host)?,
            port: parse_port(scheme, port)?,
        })
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host: a name in lower case, or an address.
    #[must_use]
    pub fn host(&self) -> &Host<String> {
        &self.host
    }

    /// The port, also where it is the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, if the host is not a name.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
        }
    }

    /// Host and port as they stand in a `Host` field: without the port where it is the scheme's own (RFC 9110 section 7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// Why host and port are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OriginFault {
    /// `user@host` or `user:password@host`.
    #[error("has user information before its host")]
    UserInformation,
    /// Controls, spaces, `\`, `%`, `*`, characters outside ASCII and the like.
    #[error(
        "has a character in its host that neither a name nor an address has (non-ASCII names have to be given in punycode)"
    )]
    Character,
    /// Nothing before the port or path.
    #[error("names no host")]
    NoHost,
    /// `localhost.`: the same host under another name.
    #[error("has a host that ends with a dot")]
    TrailingDot,
    /// Another spelling of something.
    #[error("has a host that is not in its usual form, which is {canonical}")]
    NotCanonical {
        /// How it has to be written.
        canonical: String,
    },
    /// Neither name nor address.
    #[error("has a host that is neither a name nor an address")]
    NotAHost,
    /// Empty, zero, too large, with leading zeros, or no number at all.
    #[error("has a port that is not a plain number from 1 to 65535")]
    Port,
}

fn parse_host(text: &str) -> Result<Host<String>, OriginFault> {
    let text = text.to_ascii_lowercase();
    if text.is_empty() {
        return Err(OriginFault::NoHost);
    }
    if text.ends_with('.') {
        return Err(OriginFault::TrailingDot);
    }
    let host = Host::parse(&text).map_err(|_| OriginFault::NotAHost)?;
    let canonical = host.to_string();
    if canonical != text {
        return Err(OriginFault::NotCanonical { canonical });
    }
    if let Host::Domain(name) = &host {
        let good = |label: &str| {
            !label.is_empty() && label.len() <= LABEL_LIMIT && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() > HOST_NAME_LIMIT || !name.split('.').all(good) {
            return Err(OriginFault::NotAHost);
        }
    }
    Ok(host)
}

/// Reads what follows the host: nothing, or a colon and a number.
fn parse_port(scheme: Scheme, text: &str) -> Result<u16, OriginFault> {
    if text.is_empty() {
        return Ok(scheme.default_port());
    }
    let digits = text.strip_prefix(':').ok_or(OriginFault::NotAHost)?;
    match digits.parse::<u16>() {
        Ok(port) if port != 0 && port.to_string() == digits => Ok(port),
        _ => Err(OriginFault::Port),
    }
}

/// Why a path or query is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathFault {
    /// `*`, `x`, or a whole URL in the place of the path (absolute form, RFC 9112 section 3.2.2).
    #[error("has a path that does not begin with a slash")]
    NotAbsolute,
    /// `//`: a server or proxy may take the next segment for a host, or merge the two slashes.
    #[error("has an empty segment in its path")]
    EmptySegment,
    /// `.` and `..`, also with parameters (`..;x`), which some servers cut off first.
    #[error("has a dot segment in its path")]
    DotSegment,
    /// `%2e`, `%2f`, `%5c` and, in an identity endpoint's path, all others: none of those needs one, and every server decodes
    /// them at another time.
    #[error("has a percent-encoded character in its path that it must not have")]
    PercentEncoded,
    /// A character that RFC 3986 section 3.3 keeps out of paths.
    #[error("has a character in its path that no path has")]
    PathCharacter,
    /// A character that RFC 3986 section 3.4 keeps out of queries, or a `%` without two hexadecimal digits.
    #[error("has a character in its query that has to be percent-encoded")]
    QueryCharacter,
    /// Longer than any server takes.
    #[error("is longer than {PATH_AND_QUERY_LIMIT} characters")]
    TooLong,
}

/// The longest path and query together, in bytes. RFC 9110 section 4.1 asks servers to take 8000; no token request
/// comes near.
pub(super) const PATH_AND_QUERY_LIMIT: usize = 8 * 1024;

/// Checks that all parsers read `path` in the same way.
pub(super) fn check_path(path: &str) -> Result<(), PathFault> {
    if path.len() > PATH_AND_QUERY_LIMIT {
        return Err(PathFault::TooLong);
    }
    if path.contains('%') {
        return Err(PathFault::PercentEncoded);
    }
    let segments = path.strip_prefix('/').ok_or(PathFault::NotAbsolute)?;
    if !segments.bytes().all(|byte| byte == b'/' || is_path_character(byte)) {
        return Err(PathFault::PathCharacter);
    }
    let count = segments.split('/').count();
    for (index, segment) in segments.split('/').enumerate() {
        let name = segment.split(';').next().unwrap_or_default();
        if matches!(name, "." | "..") {
            return Err(PathFault::DotSegment);
        }
        // The last segment is empty where the path ends with a slash.
        if segment.is_empty() && index + 1 < count {
            return Err(PathFault::EmptySegment);
        }
    }
    Ok(())
}

/// Checks a path of an origin that is granted as a whole. Such paths name what people make, so percent-encoding is taken; not
/// so that of controls, dots, slashes and backslashes, which would be another path to a server that decodes first.
pub(super) fn check_encoded_path(path: &str) -> Result<(), PathFault> {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        let byte = after
            .get(..2)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte {
            None => return Err(PathFault::PercentEncoded),
            Some(byte) if byte.is_ascii_control() || b"./\\".contains(&byte) => return Err(PathFault::PercentEncoded),
            Some(_) => {}
        }
        plain.push_str(before);
        // What stands in the place of the octet is a character of no meaning.
        plain.push('_');
        rest = &after[2..];
    }
    plain.push_str(rest);
    match path.len() > PATH_AND_QUERY_LIMIT {
        true => Err(PathFault::TooLong),
        false => check_path(&plain),
    }
}

/// Checks that `query` needs no repair before it is sent.
pub(super) fn check_query(query: &str) -> Result<(), PathFault> {
    if query.len() > PATH_AND_QUERY_LIMIT {
        return Err(PathFault::TooLong);
    }
    let mut bytes = query.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'%' => {
                let mut is_hex_digit = || bytes.next().is_some_and(|digit| digit.is_ascii_hexdigit());
                is_hex_digit() && is_hex_digit()
            }
            b'/' | b'?' => true,
            _ => is_path_character(byte),
        };
        if !good {
            return Err(PathFault::QueryCharacter);
        }
    }
    Ok(())
}

/// `pchar` of RFC 3986 section 3.3 without percent-encoding.
fn is_path_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_print_in_canonical_form() {
        for (authority, printed) in [
            ("localhost", "http://localhost"),
            ("LocalHost:80", "http://localhost"),
            ("localhost:8080", "http://localhost:8080"),
            ("127.0.0.1:41741", "http://127.0.0.1:41741"),
            ("[::1]:80", "http://[::1]"),
            ("[FE80::1]:2377", "http://[fe80::1]:2377"),
            ("[::ffff:7f00:1]", "http://[::ffff:7f00:1]"),
            ("xn--bcher-kva.example", "http://xn--bcher-kva.example"),
            ("a_b.internal:1", "http://a_b.internal:1"),
        ] {
            let origin = Origin::parse(Scheme::Http, authority);
            assert_eq!(
                origin.map(|origin| origin.to_string()),
                Ok(printed.to_owned()),
                "{authority}"
            );
        }
    }

    #[test]
    fn other_spellings_of_hosts_and_ports_are_refused() {
        let canonical = |text: &str| OriginFault::NotCanonical {
            canonical: text.to_owned(),
        };
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = vec!["abc"; 64].join(".");
        for (authority, fault) in [
            ("", OriginFault::NoHost),
            (":80", OriginFault::NoHost),
            ("user@localhost", OriginFault::UserInformation),
            ("localhost@", OriginFault::UserInformation),
            ("a:b@c:d@localhost", OriginFault::UserInformation),
            ("127.0.0.1\\.example", OriginFault::Character),
            ("127.0.0.1%2eexample", OriginFault::Character),
            ("[fe80::1%25eth0]", OriginFault::Character),
            ("[fe80::1%eth0]", OriginFault::Character),
            ("b\u{fc}cher.example", OriginFault::Character),
            ("127\u{3002}0.0.1", OriginFault::Character),
            ("\u{ff11}27.0.0.1", OriginFault::Character),
            ("*", OriginFault::Character),
            ("local host", OriginFault::Character),
            ("localhost\r\n", OriginFault::Character),
            ("localhost\0", OriginFault::Character),
            ("localhost.", OriginFault::TrailingDot),
            ("127.0.0.1.", OriginFault::TrailingDot),
            (".", OriginFault::TrailingDot),
            ("2130706433", canonical("127.0.0.1")),
            ("0x7f000001", canonical("127.0.0.1")),
            ("0x7f.1", canonical("127.0.0.1")),
            ("0177.0.0.1", canonical("127.0.0.1")),
            ("127.1", canonical("127.0.0.1")),
            ("127.0.1", canonical("127.0.0.1")),
            ("127.0.0.01", canonical("127.0.0.1")),
            ("[0:0:0:0:0:0:0:1]", canonical("[::1]")),
            ("[::0001]", canonical("[::1]")),
            ("[::127.0.0.1]", canonical("[::7f00:1]")),
            ("[::ffff:127.0.0.1]", canonical("[::ffff:7f00:1]")),
            ("256.0.0.1", OriginFault::NotAHost),
            ("1.2.3.4.5", OriginFault::NotAHost),
            ("a..b", OriginFault::NotAHost),
            (".localhost", OriginFault::NotAHost),
            ("-a.example", OriginFault::NotAHost),
            ("a-.example", OriginFault::NotAHost),
            ("xn--a", OriginFault::NotAHost),
            ("[::1", OriginFault::NotAHost),
            ("::1]", OriginFault::NotAHost),
            ("[::1]x", OriginFault::NotAHost),
            ("[]", OriginFault::NotAHost),
            (long_label.as_str(), OriginFault::NotAHost),
            (long_name.as_str(), OriginFault::NotAHost),
            ("::1", OriginFault::NoHost),
            ("localhost:", OriginFault::Port),
            ("localhost:0", OriginFault::Port),
            ("localhost:080", OriginFault::Port),
            ("localhost:65536", OriginFault::Port),
            ("localhost:80:80", OriginFault::Port),
            ("localhost:http", OriginFault::Port),
        ] {
            assert_eq!(Origin::parse(Scheme::Http, authority), Err(fault), "{authority:?}");
        }
    }

    #[test]
    fn paths_and_queries_are_taken_or_refused_as_they_are() {
        let long = format!("/{}", "a".repeat(PATH_AND_QUERY_LIMIT));
        for (path, verdict) in [
            ("/", Ok(())),
            ("/msi/token", Ok(())),
            ("/msi/token/", Ok(())),
            ("/a.b/..c/...;x=1/~@:d", Ok(())),
            ("", Err(PathFault::NotAbsolute)),
            ("*", Err(PathFault::NotAbsolute)),
            ("http://evil.example/", Err(PathFault::NotAbsolute)),
            ("//evil.example/", Err(PathFault::EmptySegment)),
            ("/a//b", Err(PathFault::EmptySegment)),
            ("/a//", Err(PathFault::EmptySegment)),
            ("/./a", Err(PathFault::DotSegment)),
            ("/a/..", Err(PathFault::DotSegment)),
            ("/a/..;x/b", Err(PathFault::DotSegment)),
            ("/%2e%2e/", Err(PathFault::PercentEncoded)),
            ("/a%2fb", Err(PathFault::PercentEncoded)),
            ("/a%5Cb", Err(PathFault::PercentEncoded)),
            ("/a\\b", Err(PathFault::PathCharacter)),
            ("/a b", Err(PathFault::PathCharacter)),
            ("/a?b", Err(PathFault::PathCharacter)),
            ("/a#b", Err(PathFault::PathCharacter)),
            ("/a\r\nb", Err(PathFault::PathCharacter)),
            ("/\u{e9}", Err(PathFault::PathCharacter)),
            (long.as_str(), Err(PathFault::TooLong)),
        ] {
            assert_eq!(check_path(path), verdict, "{path:?}");
        }
        for (query, verdict) in [
            ("", Ok(())),
            ("resource=https%3A%2F%2Fvault.azure.net", Ok(())),
            ("resource=https://vault.azure.net/?x=1&y", Ok(())),
            ("a=%", Err(PathFault::QueryCharacter)),
            ("a=%4", Err(PathFault::QueryCharacter)),
            ("a=%zz", Err(PathFault::QueryCharacter)),
            ("a={b}", Err(PathFault::QueryCharacter)),
            ("a=b c", Err(PathFault::QueryCharacter)),
            ("a=\u{e9}", Err(PathFault::QueryCharacter)),
            ("a#b", Err(PathFault::QueryCharacter)),
            (long.as_str(), Err(PathFault::TooLong)),
        ] {
            assert_eq!(check_query(query), verdict, "{query:?}");
        }
    }
}
