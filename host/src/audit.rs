//! The audit trail: who asked for what, what was decided, and which token came of it.
//!
//! Each call that a [`Gate`](crate::grants::Gate) decides is one event of [`tracing`], of the target [`TARGET`] and the
//! level `INFO`, when it ends. These are its fields; those that do not apply are absent.
//!
//! | field | |
//! |---|---|
//! | `caller` | who asked, by the name that the host gave |
//! | `kind` | `token`; `authorize-only`, a token for a request that the caller does not see; `http`, a request as it is; `forget`; `describe-source` |
//! | `decision` | `allowed`, `denied`, or `throttled` |
//! | `audience` | for what, as it was asked for |
//! | `identity` | as whom, as a policy writes it |
//! | `method`, `destination` | of a request: its method, and scheme, host and port; of one that is refused for how it is written or where its host is, the URL without user and query |
//! | `source` | where the token comes from |
//! | `fingerprint` | the first 8 hexadecimal digits of the SHA-256 of the token |
//! | `expires_on` | from when on the token is worthless, in seconds since 1970-01-01T00:00:00Z |
//! | `stale` | whether the token's successor is overdue |
//! | `cause` | why there is none: a cause of the interface, or `cancelled` when nobody waited for the answer |
//! | `unrecorded` | how many refusals of this caller have no event of their own, since its last event |
//!
//! No event holds a token. What callers write is cut and escaped, and a caller that is refused again and again has ten
//! events a second at most: nobody fills a disk by asking. What is allowed is bounded by the caller's `rate`, if it has one:
//! give one to whom you do not trust.
//!
//! Without a subscriber for the target, nothing is computed.

use crate::grants;
use crate::token::{AccessToken, Identity};
use std::borrow::Cow;
use std::fmt;

/// The target of all audit events.
pub const TARGET: &str = "managed_identity::audit";

/// The longest text of a caller's in an event, in bytes: as long as an audience may be.
const LONGEST_TEXT: usize = 2048;

/// How many hexadecimal digits of a token's digest tell it from others, and give away nothing of use.
const FINGERPRINT_DIGITS: usize = 8;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Token,
    AuthorizeOnly,
    Http,
    Forget,
    DescribeSource,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::AuthorizeOnly => "authorize-only",
            Self::Http => "http",
            Self::Forget => "forget",
            Self::DescribeSource => "describe-source",
        }
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    Denied,
    Throttled,
}

impl Decision {
    const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Throttled => "throttled",
        }
    }
}

/// A call, as far as it is known before it is decided.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) kind: Kind,
    pub(crate) audience: Option<&'a str>,
    pub(crate) identity: Option<&'a Identity>,
    /// Method and destination.
    pub(crate) request: Option<(&'a str, &'a (dyn fmt::Display + Sync))>,
}

impl<'a> Asked<'a> {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            audience: None,
            identity: None,
            request: None,
        }
    }

    pub(crate) const fn token(mut self, audience: &'a str, identity: &'a Identity) -> Self {
        self.audience = Some(audience);
        self.identity = Some(identity);
        self
    }
}

/// Whether anybody listens.
pub(crate) fn is_heard() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::INFO)
}

/// Makes the event of one call.
pub(crate) fn record(
    caller: &str,
    asked: &Asked<'_>,
    decision: Decision,
    token: Option<&AccessToken>,
    cause: Option<&str>,
    unrecorded: u64,
) {
    if !is_heard() {
        return;
    }
    let audience = asked.audience.map(|audience| shown(audience, LONGEST_TEXT));
    let identity = asked.identity.map(|identity| grants::named(identity).to_string());
    let identity = identity.as_deref().map(|identity| shown(identity, LONGEST_TEXT));
    let method = asked.request.map(|(method, _)| shown(method, LONGEST_TEXT));
    let destination = asked.request.map(|(_, destination)| destination.to_string());
    let destination = destination
        .as_deref()
        .map(|destination| shown(destination, LONGEST_TEXT));
    let fingerprint = token.map(|token| {
        let mut digest = token.token.sha256();
        digest.truncate(FINGERPRINT_DIGITS);
        digest
    });
    tracing::info!(
        target: TARGET,
        caller,
        kind = asked.kind.name(),
        decision = decision.name(),
        audience = audience.as_deref(),
        identity = identity.as_deref(),
        method = method.as_deref(),
        destination = destination.as_deref(),
        source = token.map(|token| token.source.as_str()),
        fingerprint = fingerprint.as_deref(),
        expires_on = token.map(|token| token.expires_on),
        stale = token.map(|token| token.stale),
        cause,
        unrecorded = (unrecorded > 0).then_some(unrecorded),
    );
}

/// What a caller has written, without control characters, and no more than about `limit` bytes of it.
pub(crate) fn shown(text: &str, limit: usize) -> Cow<'_, str> {
    let is_plain = |text: &str| text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if text.len() <= limit && is_plain(text) {
        return Cow::Borrowed(text);
    }
    let mut cut: String = text
        .chars()
        .take(limit)
        .flat_map(char::escape_default)
        .take(limit)
        .collect();
    if text.len() > limit {
        cut.push_str("...");
    }
    Cow::Owned(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_writes_is_cut_and_escaped() {
        let long = "a".repeat(2_000_000);
        for (text, expected) in [
            ("https://a.example", "https://a.example".to_owned()),
            ("a b", "a b".to_owned()),
            ("a\r\nb\0", "a\\r\\nb\\u{0}".to_owned()),
            ("\u{202e}x", "\\u{202e}x".to_owned()),
            ("\u{1b}[31m", "\\u{1b}[31m".to_owned()),
            (long.as_str(), format!("{}...", "a".repeat(32))),
        ] {
            assert_eq!(shown(text, 32), expected);
        }
    }
}
