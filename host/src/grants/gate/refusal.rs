//! What a caller is told that is refused: what it asked for, and what the policy's author would have to write.

use super::Granted;
use crate::audit;
use crate::grants::{document, named};
use crate::token::Identity;
use managed_identity_provider::error::{Cause, Error};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The longest text of a caller's in a message to it, in bytes.
const LONGEST_TEXT: usize = 256;

impl Granted {
    pub(super) fn token_denied(&self, audience: &str, identity: &Identity, has_audience: bool) -> Error {
        let audience = shown(audience);
        let section = self.section();
        if has_audience {
            let identity = named(identity).to_string();
            let identity = shown(&identity);
            return self.denied(
                format_args!("tokens for \"{audience}\" as {identity}"),
                format_args!("Add \"{identity}\" to `identities` of the `[[{section}.token]]` that has the audience."),
            );
        }
        self.denied(
            format_args!("tokens for \"{audience}\""),
            format_args!("Add it to `audiences` of `[[{section}.token]]`."),
        )
    }

    pub(super) fn nothing_granted(&self, what: &str) -> Error {
        self.denied(
            format_args!("{what}, nor any token"),
            format_args!("Add a `[[{}.token]]`.", self.section()),
        )
    }

    pub(super) fn denied(&self, what: impl fmt::Display, cure: impl fmt::Display) -> Error {
        let caller = shown(self.caller().name());
        Error::new(
            Cause::Denied,
            format!("By the host's policy, the caller \"{caller}\" is not granted {what}. {cure}"),
        )
    }

    pub(super) fn throttled(&self, wait: Duration, why: impl fmt::Display, key: &str) -> Error {
        let caller = shown(self.caller().name());
        let section = self.section();
        let wait = wait.as_nanos().div_ceil(1_000_000);
        let mut error = Error::new(
            Cause::Throttled,
            format!(
                "The caller \"{caller}\" {why}, which is all that `{key}` of `[{section}]` in the host's policy allows. Try \
                 again in {wait} ms."
            ),
        );
        error.retry_after_ms = Some(u32::try_from(wait).unwrap_or(u32::MAX));
        error
    }

    /// Where a policy has what this caller is granted.
    pub(super) fn section(&self) -> impl fmt::Display {
        document::section(self.caller().name())
    }
}

/// What a caller has written, as it may stand in a message.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    audit::shown(text, LONGEST_TEXT)
}
